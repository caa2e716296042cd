"""A poll that is answered while it waits is answered as in its turn."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.joiners.snapshot_agent import SnapshotStage
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries
from tests.joiners.snapshots.test_kept import TOPICS, requests_in, stage

PRICES = st.lists(st.lists(st.sampled_from([1.0, 2.0, -1.0]), max_size=3), min_size=1, max_size=8)


def run(folder: Path, prices: Sequence[Sequence[float]], asks: Sequence[bool], cut: int, *, ahead: bool) -> list[Any]:
    """All that is published and counted."""
    log, registry = MemoryLog(TOPICS), Registry(f"sqlite:///{folder}/{ahead}.sqlite")
    requests_in(log, prices, asks)
    made = stage(log, registry, 0)
    made.looks_ahead = ahead
    asyncio.run(run_stage(made, log, max_records=lambda: cut))
    polls = [log.poll(topic, 0, 0) for topic in TOPICS]
    found = [[] if poll is None else list(zip(poll.keys, poll.values, poll.headers, strict=True)) for poll in polls]
    counted = sorted(registry.accounts()), registry.progress("snapshots")
    registry.close()
    return [found, counted]


@settings(max_examples=tries(15), suppress_health_check=[HealthCheck.too_slow])
@given(prices=PRICES, asks=st.lists(st.booleans(), min_size=8, max_size=8), cut=st.integers(1, 3))
def test_with_and_without_looking_ahead_the_same_is_published_and_counted(
    prices: list[list[float]], asks: list[bool], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(Path(folder), prices, asks[: len(prices)], cut, ahead=ahead) for ahead in (True, False)]
    assert runs[0] == runs[1]


class Watched:
    """A stage, whose calls of what serves features are counted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.registry = MemoryLog(TOPICS), Registry(f"sqlite:///{folder}/r.sqlite")
        requests_in(self.log, [[1.0], [2.0]], [True, True])
        self.stage, self.served = stage(self.log, self.registry, 0), 0
        serve = self.stage._serve

        def counted(candidates: Any) -> Any:
            self.served += 1
            return serve(candidates)

        monkeypatch.setattr(self.stage, "_serve", counted)

    async def handle(self, offset: int, *, ahead: bool, part: bool = False) -> None:
        """The poll of one request, or of two of which the first is cut off."""
        poll = self.log.poll("requests", 0, offset - part, 1 + part)
        assert poll is not None
        if ahead:
            self.stage.ahead(poll)
        async for work in self.stage.handle(poll.since(offset)):
            self.log.append(work.outgoing)
            if work.commit is not None:
                work.commit()


@pytest.mark.parametrize("part", [False, True])
def test_what_was_answered_ahead_is_not_computed_again_but_for_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: bool
) -> None:
    watched = Watched(tmp_path, monkeypatch)
    asyncio.run(watched.handle(0, ahead=True))
    assert watched.served == 1  # not ahead: nobody knew yet whether an earlier life had left snapshots
    asyncio.run(watched.handle(1, ahead=True, part=part))
    assert watched.served == (3 if part else 2)
    assert watched.log.end_offsets("replies") == {0: 2}
    watched.registry.close()


def test_a_message_that_was_refused_meanwhile_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch)
    kept: dict[int, str] = {}
    refusals = Refusals(lambda _topic, _partition: kept, lambda _topic, _partition, more: kept.update(more))
    watched.stage.refusals = watched.stage._intake.refusals = refusals
    asyncio.run(watched.handle(0, ahead=False))
    poll = watched.log.poll("requests", 0, 1)
    assert poll is not None
    watched.stage.ahead(poll)
    refusals.add("requests", 0, {1: "another reader cannot use it"})

    async def main() -> None:
        async for work in watched.stage.handle(poll):
            watched.log.append(work.outgoing)

    asyncio.run(main())
    assert watched.log.end_offsets("snapshots") == {0: 1}
    assert watched.log.end_offsets("dead") == {0: 1}
    watched.registry.close()


def test_a_request_that_may_repeat_another_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch)
    asyncio.run(watched.handle(0, ahead=False))
    monkeypatch.setattr(watched.stage, "_unique_within_us", 1)
    poll = watched.log.poll("requests", 0, 1)
    assert poll is not None
    watched.stage.ahead(poll)
    assert watched.served == 1
    assert SnapshotStage.ahead not in poll.shared
    watched.registry.close()
