"""What anybody was told is what is kept, wherever a worker dies and whatever has changed when the next one starts."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.kept import Behind, find_snapshots
from dovetail.joiners.snapshots.messages import REPLY_HEADER, Answers
from dovetail.joiners.snapshots.units import requests_of
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import SOURCE_COLUMNS, SourceFilter, with_own_positions, with_source_positions
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries
from tests.joiners.test_snapshots import SCHEMA, Answer, request

TOPICS = {"requests": 1, "snapshots": 1, "dead": 1, "replies": 1}
STEPS = ("computed", "published", "committed", "acknowledged")


class Crash(Exception):
    """What ends a life."""


class Topic:
    """The snapshots in a log in memory, read as a broker gives them: a few messages at a time."""

    def __init__(self, log: MemoryLog, at_once: int = 2) -> None:
        self._log, self._at_once = log, at_once

    def bounds(self, partition: int) -> tuple[int, int]:
        return 0, self._log.end_offsets("snapshots")[partition]

    def read(self, partition: int, offset: int) -> Poll | None:
        return self._log.poll("snapshots", partition, offset, self._at_once)


class Changing:
    """Features and a model that are others in every life; each life refuses other requests, those with its price."""

    def __init__(self, life: int) -> None:
        self.life = life

    def serve(self, candidates: pa.Table) -> Answer:
        price = candidates.column("price").to_numpy()
        if (price == -1 - self.life).any():
            raise WireError("no value for this price")
        features = pa.table({"feature": pa.array(price + 1_000 * self.life)})
        return Answer(features, ["feature"], {"view": [self.life]}, np.ones(len(price), dtype=np.bool_))

    def refresh(self) -> None:
        """There is nothing to take over."""

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        return self.life, (table.column("feature").to_numpy() / 7).astype(np.float32)


def stage(log: MemoryLog, registry: Registry, life: int, rows_per_message: int = 2) -> SnapshotStage:
    return SnapshotStage(
        RequestTopic("requests", Intake(SCHEMA, "request_time", None), flatten_requests),
        Ranking(Changing(life), Changing(life)),
        Answers("snapshots", "dead", ["replies"], rows_per_message=rows_per_message),
        registry,
        snapshots=Topic(log),
    )


def kept(log: MemoryLog) -> pa.Table | None:
    """The snapshots as their readers take them."""
    poll = log.poll("snapshots", 0, 0)
    if poll is None:
        return None
    rows = wire.decode_arrow(poll)
    return rows.filter(pa.array(SourceFilter().admit(rows)))


def said_by(snapshot: list[dict[str, Any]]) -> bytes:
    """The scores that a kept snapshot says."""
    return json.dumps(
        {
            "request_id": snapshot[0]["request_id"],
            "model_version": snapshot[0]["model_version"],
            "items": [row["item_id"] for row in snapshot],
            "scores": [row["score"] for row in snapshot],
        }
    ).encode()


def told(log: MemoryLog) -> tuple[dict[str, set[bytes]], set[str]]:
    """The replies: by request id those with scores, and the ids of requests that were told an error."""
    poll = log.poll("replies", 0, 0)
    scores: dict[str, set[bytes]] = {}
    errors: set[str] = set()
    for value in [] if poll is None else poll.values:
        answer = json.loads(value or b"")
        if "error" in answer:
            errors.add(answer["request_id"])
        else:
            scores.setdefault(answer["request_id"], set()).add(value or b"")
    return scores, errors


def check(log: MemoryLog, registry: Registry, asking: Sequence[bytes]) -> None:
    """Every answer is, byte for byte, what is kept, every request is answered or refused, and the books balance."""
    rows = kept(log)
    by_request: dict[str, list[dict[str, Any]]] = {}
    for row in [] if rows is None else rows.to_pylist():
        by_request.setdefault(row["request_id"], []).append(row)
    received, refused = told(log)
    # One that was refused before a death may be answered after it: it had left nothing in the topic of snapshots.
    assert refused >= {name.decode() for name in asking} - by_request.keys()
    assert received == {name: {said_by(mine)} for name, mine in by_request.items() if name.encode() in asking}
    if rows is not None:  # nothing was published twice with other values, either
        poll = log.poll("snapshots", 0, 0)
        assert poll is not None
        assert wire.decode_arrow(poll).num_rows == rows.num_rows
    accounts = registry.accounts()
    assert not any(balance(accounts).values())
    counted = {(a.stage, a.outcome): a.rows for a in accounts}
    assert counted.get(("snapshots", "snapshotted"), 0) == len(by_request)
    assert counted.get(("snapshots.candidates", "snapshotted"), 0) == (0 if rows is None else rows.num_rows)


def live(log: MemoryLog, registry: Registry, life: int, dies: Callable[[int, str], bool], cut: int) -> None:
    run_life(stage(log, registry, life), log, dies, cut)


def run_life(stage: SnapshotStage, log: MemoryLog, dies: Callable[[int, str], bool], cut: int) -> None:
    """One life of the stage, to the end of its topic or its death."""
    steps = count()

    def on_step(_stage: str, step: str) -> None:
        if dies(next(steps), step):
            raise Crash

    asyncio.run(run_stage(stage, log, max_records=lambda: cut, on_step=on_step))


def dying_at(step: int | None) -> Callable[[int, str], bool]:
    return lambda number, _: number == step


def requests_in(log: MemoryLog, prices: Sequence[Sequence[float]], asking: Sequence[bool]) -> list[bytes]:
    """The ids of those that ask, after all are in the log."""
    for number, (of, asks) in enumerate(zip(prices, asking, strict=True)):
        header = ((REPLY_HEADER, b"replies"),) if asks else ()
        log.append([Outgoing("requests", request(f"r{number}", of), headers=header)])
    return [b"r%d" % number for number, asks in enumerate(asking) if asks]


@pytest.mark.parametrize("at", range(12))
def test_killed_between_any_two_steps_what_was_told_is_what_is_kept(tmp_path: Path, at: int) -> None:
    """Two polls of three steps' works: snapshots, then replies and the commit, for each."""
    log, registry = MemoryLog(TOPICS), Registry(f"sqlite:///{tmp_path / 'r.sqlite'}")
    asking = requests_in(log, [[1.0], [2.0, 3.0], [4.0], [5.0]], [True, True, False, True])
    with suppress(Crash):
        live(log, registry, 0, dying_at(at), cut=2)
    live(log, registry, 1, dying_at(None), cut=3)
    check(log, registry, asking)
    registry.close()


class Torn(MemoryLog):
    """Takes only a beginning of a publication when told to, as a broker may when its producer dies."""

    left: int | None = None

    def append(self, outgoing: Sequence[Outgoing]) -> None:
        for message in outgoing:
            if self.left == 0:
                raise Crash
            super().append([message])
            self.left = None if self.left is None else self.left - 1


PRICES = st.lists(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, -1.0, -2.0, -3.0]), min_size=1, max_size=3), min_size=1, max_size=8
)


@settings(max_examples=tries(40), suppress_health_check=[HealthCheck.too_slow])
@given(
    prices=PRICES,
    asks=st.lists(st.booleans(), min_size=8, max_size=8),
    cuts=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    deaths=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=3),
)
def test_wherever_it_dies_and_whatever_of_a_publication_was_taken(
    prices: list[list[float]], asks: list[bool], cuts: list[int], deaths: list[tuple[bool, int]]
) -> None:
    """A request that one life refuses and another would answer is decided by the first that published behind it."""
    with tempfile.TemporaryDirectory() as folder:
        log, registry = Torn(TOPICS), Registry(f"sqlite:///{folder}/r.sqlite")
        asking = requests_in(log, prices, asks[: len(prices)])
        for life, (torn, at) in enumerate(deaths):
            log.left = at if torn else None
            with suppress(Crash):
                live(log, registry, life, dying_at(None if torn else at), cut=cuts[life])
        log.left = None
        live(log, registry, len(deaths), dying_at(None), cut=cuts[-1])
        check(log, registry, asking)
        registry.close()


def snapshots_of(offsets: Sequence[int]) -> Outgoing:
    """One message with a row for each request at these offsets, its number in ``n``."""
    n = len(offsets)
    rows = pa.table({"n": pa.array(offsets, pa.int64()), "_request": pa.array([{"u": 1}] * n)})
    own = with_own_positions(rows, 0, np.array(offsets, dtype=np.int64), np.zeros(n, dtype=np.int32))
    return Outgoing("snapshots", wire.encode(with_source_positions(own)))


@given(
    messages=st.lists(st.integers(1, 3), max_size=12),
    start=st.integers(0, 40),
    polls=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    at_once=st.integers(1, 5),
)
def test_what_lies_behind_a_position_is_given_out_once_and_in_order(
    messages: list[int], start: int, polls: list[int], at_once: int
) -> None:
    log, at = MemoryLog(TOPICS), 0
    offsets: list[int] = []
    for size in messages:
        log.append([snapshots_of(range(at, at + 2 * size, 2))])
        offsets += range(at, at + 2 * size, 2)
        at += 2 * size
    behind, position = Behind(Topic(log, at_once), 0, start), start
    for size in polls:
        found = behind.between(position, position + size - 1)
        again = behind.between(position, position + size - 1)  # as where a poll has to be handled anew
        assert again.decided == found.decided
        assert (again.rows is None) == (found.rows is None)
        position += size
        given_out = [] if found.rows is None else found.rows.column("n").to_pylist()
        assert given_out == [n for n in offsets if position - size <= n < position and n >= start]
        behind_it = [n for n in offsets if n >= position]
        if behind_it:
            assert found.decided is not None
            assert found.decided[0] >= position - 1
    behind.between(position, position)
    assert behind.exhausted == (not [n for n in offsets if n >= position])
    wanted = {(n, 0) for n in (*offsets, 1, 99)}
    found_again = find_snapshots(Topic(log, at_once), 0, wanted)
    assert (set() if found_again is None else requests_of(found_again, SOURCE_COLUMNS)) == {(n, 0) for n in offsets}
