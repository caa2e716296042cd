"""A poll is answered in parts of so many candidates."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.joiners.snapshots.parts import parts_of
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.test_snapshots import SCHEMA, Doubling, Prices, request


def poll_of(*messages: Outgoing) -> Poll:
    log = MemoryLog({"requests": 1})
    log.append(messages)
    poll = log.poll("requests", 0, 0)
    assert poll is not None
    return poll


def of(*counts: int) -> list[Outgoing]:
    return [Outgoing("requests", request(f"r{n}", [1.0] * count)) for n, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ((3, 3), [[0, 1]]),
        ((4, 3), [[0], [1]]),
        ((2, 2, 2, 6, 7, 1), [[0, 1, 2], [3], [4], [5]]),
        ((0, 0, 9, 0, 1), [[0, 1], [2], [3, 4]]),
    ],
)
def test_whole_messages_go_together(counts: tuple[int, ...], parts: list[list[int]]) -> None:
    poll = poll_of(*of(*counts))
    intake = Intake(SCHEMA, "request_time", None)
    found = parts_of(poll, intake.read(poll), 6)
    assert [part.offsets.tolist() for part, _ in found] == parts
    assert [received.table.column("_offset").to_pylist() for _, received in found] == parts


def test_letters_and_watermarks_stay_with_their_messages() -> None:
    speaks = Outgoing("requests", b"", headers=((WATERMARK_HEADER, b"7"),))
    poll = poll_of(*of(5), Outgoing("requests", b"no"), *of(5), speaks, *of(5))
    found = parts_of(poll, Intake(SCHEMA, "request_time", None).read(poll), 6)
    assert [part.offsets.tolist() for part, _ in found] == [[0, 1], [2, 3], [4]]
    assert [[letter.offset for letter in received.dead] for _, received in found] == [[1], [], []]
    assert [received.watermarks for _, received in found] == [[], [(3, 7)], []]


def test_each_part_is_committed_by_itself(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    stage = SnapshotStage(
        RequestTopic("requests", Intake(SCHEMA, "request_time", None), flatten_requests),
        Ranking(Prices(), Doubling()),
        Answers("snapshots", "dead", ["replies"], rows_per_commit=6),
        registry,
    )
    poll = poll_of(*of(3, 3, 2), Outgoing("requests", b"no"), *of(7))
    stage.resume("requests")
    done = []

    async def handle() -> None:
        async for work in stage.handle(poll):
            if work.commit is not None:
                work.commit()
                done.append((work.done, registry.progress(stage.name)[0].next_offset))

    asyncio.run(handle())
    assert done == [(2, 2), (4, 4), (5, 5)]
    assert not any(balance(registry.accounts()).values())
    stage.probe(poll)


def test_in_parts_the_same_is_answered(tmp_path: Path) -> None:
    logs = []
    for number, most in enumerate((1, 5, 1_000)):
        registry = Registry(f"sqlite:///{tmp_path / f'{number}.sqlite'}")
        stage = SnapshotStage(
            RequestTopic("requests", Intake(SCHEMA, "request_time", None), flatten_requests),
            Ranking(Prices(), Doubling()),
            Answers("snapshots", "dead", ["replies"], rows_per_commit=most),
            registry,
        )
        log = MemoryLog({"requests": 1, "snapshots": 1, "dead": 1, "replies": 1})
        log.append([*of(3, 0, 2), Outgoing("requests", request("bad", [-1.0])), Outgoing("requests", b"{"), *of(4, 1)])
        asyncio.run(run_stage(stage, log))
        poll, dead = log.poll("snapshots", 0, 0), log.poll("dead", 0, 0)
        assert poll is not None
        assert dead is not None
        rows = wire.decode_arrow(poll).drop_columns(["_offset", "_row", "_partition"])
        counted = {(a.stage, a.outcome): a.rows for a in registry.accounts()}
        logs.append(
            (rows.to_pylist(), sorted(value or b"" for value in dead.values), registry.progress(stage.name), counted)
        )
    assert logs[0] == logs[1] == logs[2]
