"""A stage that looks ahead is given the poll that waits for another, once, and none of it counts but the speed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.computing import Computing, install
from dovetail.platform.runtime.trial import Mark, Trial, TrialFile
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.runtime.waiting.ahead import Ahead
from dovetail.platform.stage import Poll
from tests.platform.polls import poll_of
from tests.platform.process.test_probing import died_in
from tests.platform.runtime.copying import Copier


class Looking(Copier):
    """Notes which polls it looks at, and what stands in the trial file then."""

    looks_ahead = by_partition = True

    def __init__(self, folder: Path | None = None, error: Exception | None = None) -> None:
        super().__init__("looking")
        self.looked: list[tuple[int, int]] = []
        self.marks: list[bytes] = []
        self._folder, self._error = folder, error

    def ahead(self, poll: Poll) -> None:
        self.looked.append((poll.partition, poll.first))
        self.marks += [] if self._folder is None else [path.read_bytes() for path in self._folder.glob("*.trial")]
        if self._error is not None:
            raise self._error


def request(first: int, partition: int = 0) -> Poll:
    return poll_of([b""], topic="in", partition=partition, first=first)


async def settled() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await task


def test_a_poll_is_looked_at_while_another_of_its_partition_is_handled() -> None:
    async def main() -> list[tuple[int, int]]:
        install(Computing(local=False))
        stage, turns = Looking(), Turns[tuple[str, int]]()
        ahead = Ahead(turns, None, local=False)
        ahead.look(stage, ("in", 0), request(1))  # it has its turn
        async with turns.turn(stage.name, ("in", 0)):
            ahead.look(stage, ("in", 1), request(2, partition=1))  # so has it
            ahead.look(stage, ("in", 0), request(3))
            ahead.look(stage, ("in", 0), request(4))  # one at a time
            await settled()
            ahead.look(stage, ("in", 0), request(5))
            await settled()
        return stage.looked

    assert asyncio.run(main()) == [(0, 3), (0, 5)]


@pytest.mark.parametrize(("local", "looks"), [(True, True), (False, False)], ids=["no servers", "it does not"])
def test_nothing_is_looked_at_where_nobody_waits_for_a_server_or_the_stage_does_not(local: bool, looks: bool) -> None:
    async def main() -> list[tuple[int, int]]:
        stage, turns = Looking(), Turns[tuple[str, int]]()
        stage.looks_ahead = looks
        async with turns.turn(stage.name, ("in", 0)):
            Ahead(turns, None, local=local).look(stage, ("in", 0), request(0))
            await settled()
        return stage.looked

    assert asyncio.run(main()) == []


def refusals() -> Refusals:
    kept: dict[int, str] = {}

    def load(_topic: str, _partition: int) -> Mapping[int, str]:
        return kept

    return Refusals(load, lambda _topic, _partition, more: kept.update(more))


@pytest.mark.parametrize("error", [None, ValueError("no value")], ids=["computed", "raises"])
def test_what_comes_from_outside_is_on_trial_beside_what_is_handled(tmp_path: Path, error: Exception | None) -> None:
    stage = Looking(tmp_path, error)
    stage.refusals = refusals()

    async def main() -> None:
        install(Computing(local=False))
        turns = Turns[tuple[str, int]]()
        trial = Trial(tmp_path, lambda _stage, _poll, _beat: {})  # type: ignore[arg-type]
        trial.open({stage.name})
        await trial.begin(stage, request(0), lambda: None)
        async with turns.turn(stage.name, ("in", 0)):
            Ahead(turns, trial, local=False).look(stage, ("in", 0), request(1))
            await settled()
        trial._file.close(keep=True)  # type: ignore[union-attr]

    asyncio.run(main())
    assert [mark for said in stage.marks for mark in said.split()] != []
    assert b'"in", 0, 0, 0]' in stage.marks[0]
    assert b'"in", 0, 1, 1]' in stage.marks[0]
    assert TrialFile.left(tmp_path) == [Mark(stage.name, "in", 0, 0, 0)]  # what it looked at is over


def test_what_a_process_died_at_is_left_for_its_turn(tmp_path: Path) -> None:
    died_in(tmp_path)  # at offsets 5 to 7 of partition 0
    stage = Looking(tmp_path)
    stage.refusals = refusals()

    async def main() -> None:
        install(Computing(local=False))
        turns = Turns[tuple[str, int]]()
        trial = Trial(tmp_path, lambda _stage, _poll, _beat: {})  # type: ignore[arg-type]
        trial.open({stage.name})
        ahead = Ahead(turns, trial, local=False)
        for partition, offset in ((0, 4), (0, 5), (0, 7), (0, 8), (7, 6)):
            async with turns.turn(stage.name, ("in", partition)):
                ahead.look(stage, ("in", partition), request(offset, partition))
                await settled()

    asyncio.run(main())
    assert stage.looked == [(0, 4), (0, 8), (7, 6)]
