"""The snapshot agent: every request is answered or a dead letter, and what it saw is written down."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.snapshot_agent import (
    Ranking,
    RequestTopic,
    SnapshotStage,
)
from dovetail.joiners.snapshots.messages import (
    CORRELATION_HEADER,
    REPLY_AS_HEADER,
    REPLY_HEADER,
    SNAPSHOT_FORM,
    Answers,
)
from dovetail.joiners.snapshots.shape import request_rows
from dovetail.platform.errors import StaleCommit, WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import seen_column
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage

DDL = """CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT, price DOUBLE)[] NOT NULL)"""
SCHEMA = parse_table(parse_statements(Path("request.sql"), DDL)[0], Path("request.sql"))


@dataclass(frozen=True)
class Answer:
    encoded: pa.Table
    snapshot_columns: Sequence[str]
    seen: Mapping[str, Sequence[int]]
    answerable: npt.NDArray[np.bool_]


class Prices:
    """Features of a shop: has no value where a price is negative, and no state before 2024."""

    def serve(self, candidates: pa.Table) -> Answer:
        price = candidates.column("price")
        if any(value is not None and value < 0 for value in price.to_pylist()):
            raise WireError("ranking.sql:3: root: row 0: cannot take square root of a negative number")
        features = pa.table({"root": pa.array(np.sqrt(price.to_numpy())), "batch_only": price})
        new = [time.year >= 2024 for time in candidates.column("request_time").to_pylist()]
        return Answer(features, ["root"], {"view": [4, 7]}, np.array(new, dtype=np.bool_))


class Doubling:
    """A model at version 3: the score is the feature doubled."""

    refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        return 3, (2 * table.column("root").to_numpy()).astype(np.float32)


def request(name: str, prices: Sequence[float], year: int = 2024) -> bytes:
    candidates = [{"item_id": number, "price": price} for number, price in enumerate(prices)]
    return json.dumps(
        {"request_id": name, "user_id": "u", "request_time": f"{year}-01-01T00:00:00Z", "candidates": candidates}
    ).encode()


def stage(registry: Registry, rows_per_message: int = 20_000, limit: int = 1 << 20) -> SnapshotStage:
    return SnapshotStage(
        RequestTopic("requests", Intake(SCHEMA, "request_time", None), flatten_requests),
        Ranking(Prices(), Doubling()),
        Answers("snapshots", "dead", ["replies"], max_message_bytes=limit, rows_per_message=rows_per_message),
        registry,
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")


def answer(
    registry: Registry, messages: Sequence[Outgoing], rows_per_message: int = 20_000, limit: int = 1 << 20
) -> tuple[MemoryLog, dict[tuple[str, str], int]]:
    log = MemoryLog({"requests": 1, "snapshots": 1, "dead": 1, "replies": 1})
    log.append(messages)
    asyncio.run(run_stage(stage(registry, rows_per_message, limit), log))
    accounts = registry.accounts()
    assert not any(balance(accounts).values())
    return log, {(a.stage, a.outcome): a.rows for a in accounts if a.rows}


def asked(*values: bytes) -> list[Outgoing]:
    return [Outgoing("requests", value) for value in values]


def published(log: MemoryLog, topic: str) -> list[Any]:
    poll = log.poll(topic, 0, 0)
    return [] if poll is None else list(zip(poll.values, poll.headers, strict=True))


def test_a_snapshot_has_features_scores_version_and_what_was_seen_but_no_batch_features(registry: Registry) -> None:
    log, accounts = answer(registry, asked(request("a", [4.0, 9.0])))
    poll = log.poll("snapshots", 0, 0)
    assert poll is not None
    rows = wire.decode_arrow(poll)
    assert rows.column("root").to_pylist() == [2.0, 3.0]
    assert rows.column("score").to_pylist() == [4.0, 6.0]
    assert rows.column("model_version").to_pylist() == [3, 3]
    assert rows.column(seen_column("view")).to_pylist() == [[4, 7], [4, 7]]
    assert "batch_only" not in rows.column_names
    assert rows.column("_source_offset").to_pylist() == [0, 0]
    again = request_rows(rows)
    assert again.column("price").to_pylist() == [4.0, 9.0]
    assert again.column("user_id").to_pylist() == ["u", "u"]
    assert accounts[("snapshots.candidates", "snapshotted")] == 2


def test_each_request_that_cannot_be_answered_is_a_dead_letter_and_the_others_are_answered(registry: Registry) -> None:
    values = [
        request("good", [1.0]),
        request("empty", []),
        request("old", [1.0, 1.0], year=2023),
        request("negative", [1.0, -1.0, 1.0]),
        b"{",
        request("also good", [1.0, 1.0]),
    ]
    log, accounts = answer(registry, asked(*values))
    poll = log.poll("snapshots", 0, 0)
    assert poll is not None
    assert wire.decode_arrow(poll).column("request_id").to_pylist() == ["good", "also good", "also good"]
    reasons = {
        dict(headers)["dovetail-source"]: dict(headers)["dovetail-reason"] for _, headers in published(log, "dead")
    }
    assert reasons.keys() == {b"requests[0]@1", b"requests[0]@2", b"requests[0]@3", b"requests[0]@4"}
    assert reasons[b"requests[0]@1"] == b"no candidates"
    assert b"older than the feature state can answer" in reasons[b"requests[0]@2"]
    assert b"square root of a negative number" in reasons[b"requests[0]@3"]
    assert accounts == {
        ("snapshots", "read"): 6,
        ("snapshots", "snapshotted"): 2,
        ("snapshots", "dead_letter"): 4,
        ("snapshots.candidates", "read"): 8,
        ("snapshots.candidates", "snapshotted"): 3,
        ("snapshots.candidates", "dead_letter"): 5,
    }


def test_a_dead_request_has_the_key_the_headers_and_the_bytes_that_it_came_with(registry: Registry) -> None:
    came = request("old", [1.0], year=2023)
    theirs = (("trace", b"\xff"), (REPLY_HEADER, b"replies"))
    log, _ = answer(registry, [Outgoing("requests", came, key=b"user", headers=theirs)])
    poll = log.poll("dead", 0, 0)
    assert poll is not None
    assert (list(poll.values), list(poll.keys)) == ([came], [b"user"])
    assert tuple(poll.headers[0][:2]) == theirs
    assert wire.letter_of(poll.headers[0]).topic == "requests"


def test_of_an_arrow_message_with_a_refused_request_the_letter_has_that_request_alone(registry: Registry) -> None:
    both = [json.loads(request(name, [1.0], year=year)) for name, year in (("good", 2024), ("old", 2023))]
    table = pa.Table.from_pylist(both)
    log, accounts = answer(registry, asked(wire.encode(table), wire.encode(table.slice(1))))
    assert accounts["snapshots", "snapshotted"] == 1
    cut, whole = published(log, "dead")
    assert pa.ipc.open_stream(cut[0]).read_all().column("request_id").to_pylist() == ["old"]
    assert whole[0] == wire.encode(table.slice(1))


def test_a_header_without_value_asks_for_no_topic(registry: Registry) -> None:
    nothing: Any = None
    log, _ = answer(registry, [Outgoing("requests", request("r", [1.0]), headers=((REPLY_HEADER, nothing),))])
    ((_, headers),) = published(log, "dead")
    assert b"its scores are asked for in topic ''" in dict(headers)["dovetail-reason"]


def test_nothing_answerable_publishes_nothing(registry: Registry) -> None:
    log, accounts = answer(registry, asked(request("old", [1.0], year=2023), request("bad", [-1.0])))
    assert published(log, "snapshots") == []
    assert accounts[("snapshots", "dead_letter")] == 2


def test_messages_hold_whole_requests(registry: Registry) -> None:
    log, _ = answer(registry, asked(*(request(str(n), [1.0] * 3) for n in range(4))), rows_per_message=7)
    sizes = [pa.ipc.open_stream(value).read_all().num_rows for value, _ in published(log, "snapshots")]
    assert sizes == [6, 6]


def test_scores_go_back_to_whoever_asked_for_them(registry: Registry) -> None:
    header = ((REPLY_HEADER, b"replies"),)
    messages = [
        Outgoing("requests", request("silent", [1.0])),
        Outgoing("requests", request("asking", [4.0, 9.0]), headers=header),
    ]
    log, _ = answer(registry, messages)
    ((value, _),) = published(log, "replies")
    assert json.loads(value) == {"request_id": "asking", "model_version": 3, "items": [0, 1], "scores": [4.0, 6.0]}


def test_an_answer_carries_the_name_of_its_question_and_a_refused_request_its_reason(registry: Registry) -> None:
    def headers(name: bytes, *more: tuple[str, bytes]) -> tuple[tuple[str, bytes], ...]:
        return ((REPLY_HEADER, b"replies"), (CORRELATION_HEADER, name), *more)

    messages = [
        Outgoing("requests", request("good", [4.0]), headers=headers(b"a")),
        Outgoing("requests", request("empty", []), headers=headers(b"b")),
        Outgoing("requests", b"{", headers=headers(b"c")),
        Outgoing("requests", request("whole", [9.0]), headers=headers(b"d", (REPLY_AS_HEADER, SNAPSHOT_FORM))),
        Outgoing("requests", b"{", headers=((REPLY_HEADER, b"elsewhere"),)),
    ]
    log, _ = answer(registry, messages)
    told = {dict(found)[CORRELATION_HEADER]: value for value, found in published(log, "replies")}
    assert json.loads(told[b"a"])["scores"] == [4.0]
    assert json.loads(told[b"b"]) == {"request_id": "empty", "error": "no candidates"}
    assert json.loads(told[b"c"])["request_id"] is None
    assert "not valid JSON" in json.loads(told[b"c"])["error"]
    whole = wire.rows_of(told[b"d"])
    assert whole is not None
    kept = [rows for value, _ in published(log, "snapshots") if (rows := wire.rows_of(value)) is not None]
    assert pa.concat_tables(kept).slice(1).equals(whole)
    assert len(told) == 4


def test_a_request_too_large_for_the_broker_is_a_dead_letter_and_the_others_are_answered(registry: Registry) -> None:
    noise = np.random.default_rng(1).random(4_000).tolist()
    header = ((REPLY_HEADER, b"replies"),)
    messages = [
        Outgoing("requests", request(name, prices), headers=header)
        for name, prices in (("small", [1.0]), ("large", noise), ("also small", [4.0]))
    ]
    log, accounts = answer(registry, messages, limit=32_000)
    sent = log.poll("snapshots", 0, 0)
    assert sent is not None
    assert wire.decode_arrow(sent).column("request_id").to_pylist() == ["small", "also small"]
    told = [json.loads(value) for value, _ in published(log, "replies")]
    assert [(answer["request_id"], "scores" in answer) for answer in told] == [
        ("small", True),
        ("also small", True),
        ("large", False),
    ]
    assert told[2]["error"].startswith("the request's snapshot would be ")
    ((value, headers),) = published(log, "dead")
    assert dict(headers)["dovetail-source"] == b"requests[0]@1"
    reason = dict(headers)["dovetail-reason"].decode()
    assert re.fullmatch(r"the request's snapshot would be \d+ bytes, 28000 are allowed: .*", reason)
    assert value == messages[1].value
    assert accounts == {
        ("snapshots", "read"): 3,
        ("snapshots", "snapshotted"): 2,
        ("snapshots", "dead_letter"): 1,
        ("snapshots.candidates", "read"): 4_002,
        ("snapshots.candidates", "snapshotted"): 2,
        ("snapshots.candidates", "dead_letter"): 4_000,
    }


def test_scores_too_large_for_the_broker_make_a_dead_letter_too(registry: Registry) -> None:
    # A snapshot of one item over and over compresses, its answer does not.
    value = re.sub(rb'"item_id": \d+', b'"item_id": 9000000000000000000', request("wide", [1.0] * 5_000))
    messages = [Outgoing("requests", value, headers=((REPLY_HEADER, b"replies"),))]
    log, accounts = answer(registry, messages, limit=110_000)
    assert published(log, "snapshots") == []
    ((reply, _),) = published(log, "replies")
    assert "the request's list of scores would be" in json.loads(reply)["error"]
    ((_, headers),) = published(log, "dead")
    assert b"the request's list of scores would be" in dict(headers)["dovetail-reason"]
    assert accounts[("snapshots.candidates", "dead_letter")] == 5_000


@pytest.mark.parametrize("topic", [b"elsewhere", b"\xff"], ids=["not declared", "not text"])
def test_scores_go_to_declared_topics_only(registry: Registry, topic: bytes) -> None:
    messages = [
        Outgoing("requests", request("asking", [1.0, 1.0]), headers=((REPLY_HEADER, topic),)),
        Outgoing("requests", request("silent", [1.0])),
    ]
    log, accounts = answer(registry, messages)
    ((_, headers),) = published(log, "dead")
    assert b"not one of request.reply_topics" in dict(headers)["dovetail-reason"]
    assert accounts[("snapshots", "snapshotted")] == 1
    assert accounts[("snapshots.candidates", "dead_letter")] == 2


def test_a_second_worker_with_the_same_position_is_refused(registry: Registry) -> None:
    log = MemoryLog({"requests": 1, "snapshots": 1, "dead": 1})
    log.append(asked(request("a", [1.0])))

    async def both() -> None:
        zombie = stage(registry)
        zombie.resume("requests")
        await run_stage(stage(registry), log)
        poll = log.poll("requests", 0, 0)
        assert poll is not None
        (work,) = [work async for work in zombie.handle(poll)]
        assert work.commit is not None
        with pytest.raises(StaleCommit):
            work.commit()

    asyncio.run(both())
