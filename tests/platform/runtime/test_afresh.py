"""A stage puts another state in the place of its own: its topic is read on from that one's position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dovetail.platform.stage import Outgoing, Work
from tests.platform.runtime.copying import Copier, contents, run, runtime_of

pytestmark = pytest.mark.usefixtures("quiet")


class Replaced(Copier):
    """Goes on from another position when it is told to, as often as it is told to."""

    def __init__(self, name: str = "replaced") -> None:
        super().__init__(name)
        self.to: list[int] = []

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        if self.to and not stopping:
            position = self.to.pop(0)
            yield Work(commit=lambda: self.store.update({partition: position}), afresh=True)


class Unstored(Replaced):
    """Has copied what it has stored nothing of."""

    def commit(self, partition: int, after: int) -> None:
        self.happened.append(f"commit {after}")


def commits(stage: Copier) -> list[int]:
    return [int(what.removeprefix("commit ")) for what in stage.happened if what.startswith("commit")]


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("kind", [Replaced, Unstored])
def test_messages_come_from_the_new_position_on(path: Path, position: int, kind: type[Replaced]) -> None:
    stage, bystander = kind(), Copier("bystander")

    async def main() -> None:
        runtime = runtime_of(path, stage, bystander, tick_s=0)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"%d" % n) for n in range(5)])
        await runtime.wait_for(lambda: all(runtime.handled[who, "in", 0] == 5 for who in ("replaced", "bystander")))
        stage.to.append(position)
        await runtime.tick()
        assert stage.to == []
        await runtime.publish([Outgoing("in", b"%d" % n) for n in range(5, 7)])
        await runtime.wait_for(lambda: all(runtime.handled[who, "in", 0] == 7 for who in ("replaced", "bystander")))
        await runtime.stop()

    run(main)
    assert commits(stage) == [*range(1, 6), *range(position + 1, 8)]
    assert commits(bystander) == list(range(1, 8))


def test_a_worker_that_stops_leaves_it_to_the_next(path: Path) -> None:
    stage = Replaced()

    async def main() -> None:
        runtime = runtime_of(path, stage, tick_s=0)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a")])
        await runtime.wait_for(lambda: runtime.handled["replaced", "in", 0] == 1)
        stage.to.append(0)
        await runtime.stop()

    run(main)
    assert (stage.to, stage.store) == ([0], {0: 1})
    assert contents(path, "out") == [b"a"]
