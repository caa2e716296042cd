"""The four steps, the failures, and waiting, in this process on the embedded log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faust.types import TP

from dovetail.platform.errors import ConfigError, TransportError
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Work
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention
from tests.platform.runtime.copying import Copier, contents, handed_out, run, runtime_of

pytestmark = pytest.mark.usefixtures("quiet")


def test_each_work_goes_through_the_steps_before_the_next(path: Path) -> None:
    copier = Copier()

    async def main() -> None:
        runtime = runtime_of(path, copier, on_step=lambda stage, step: copier.happened.append(f"{stage} {step}"))
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a"), Outgoing("in", b"b")])
        await runtime.wait_for(lambda: runtime.handled["copier", "in", 0] == 2)
        assert runtime.completed == {("copier", "in", 0): 2}
        await runtime.stop()

    run(main)
    expected = ["start"]
    for offset in (1, 2):
        expected += [
            "copier computed",
            "copier published",
            f"commit {offset}",
            "copier committed",
            "copier acknowledged",
        ]
    assert copier.happened == [*expected, "stop"]
    assert contents(path, "out") == [b"a", b"b"]


@pytest.mark.parametrize(
    ("step", "published", "stored"),
    [("computed", [], {}), ("published", [b"a"], {}), ("committed", [b"a"], {0: 1}), ("acknowledged", [b"a"], {0: 1})],
)
def test_a_failure_between_steps_stops_there(
    path: Path, step: str, published: list[bytes], stored: dict[int, int]
) -> None:
    copier = Copier()

    class Injected(Exception):
        pass

    def fail(stage: str, at: str) -> None:
        if at == step:
            raise Injected(stage)

    async def main() -> None:
        runtime = runtime_of(path, copier, on_step=fail)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a"), Outgoing("in", b"b")])
        with pytest.raises(Injected):
            await runtime.wait_for(lambda: False)
        assert isinstance(runtime.failure, Injected)
        assert runtime.handled["copier", "in", 0] == 0
        assert runtime.app.consumer.committable(TP("in", 0)) == (1 if step == "acknowledged" else None)  # type: ignore[attr-defined]
        with pytest.raises(Injected):
            await runtime.wait_for(lambda: True)
        await runtime.stop()

    async def again() -> None:
        runtime = runtime_of(path, Copier(store=copier.store))
        await runtime.start()
        await runtime.wait_for(lambda: runtime.completed["copier", "in", 0] == 2)
        await runtime.stop()

    run(main)
    assert copier.happened[-1] == "stop"
    assert contents(path, "out") == published
    assert copier.store == stored
    run(again)
    assert contents(path, "out")[len(published) :] == ([b"b"] if stored else [b"a", b"b"])


def test_a_failure_of_one_stage_stops_the_others(path: Path) -> None:
    """Both read the same poll; the second is between two works when the first fails."""
    bystander = Copier("bystander")

    class Broken(Copier):
        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            raise ValueError("broken")
            yield Work()

    async def main() -> None:
        runtime = runtime_of(path, bystander, Broken("broken"))
        await runtime.start()
        await runtime.publish([Outgoing("in", b"%d" % n) for n in range(1000)])
        with pytest.raises(ValueError, match="broken"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()
        assert bystander.store.get(0, 0) < 1000

    run(main)


def test_a_stage_that_overstates_what_is_done_is_refused(path: Path) -> None:
    class Boasting(Copier):
        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            yield Work(done=poll.last + 2)

    async def main() -> None:
        runtime = runtime_of(path, Boasting())
        await runtime.start()
        await runtime.publish([Outgoing("in", b"")])
        with pytest.raises(TransportError, match="says it is done up to offset 2 of in, partition 0"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()

    run(main)


def test_waiting_sees_what_it_is_notified_of_from_another_thread(path: Path) -> None:
    async def main() -> None:
        runtime = runtime_of(path, Copier())
        runtime.notify()  # before the start: nobody waits
        await runtime.start()
        seen: list[int] = []

        def outside() -> None:
            seen.append(1)
            runtime.notify()

        waiting = asyncio.create_task(runtime.wait_for(lambda: bool(seen)))
        await asyncio.to_thread(outside)
        await waiting
        with pytest.raises(ZeroDivisionError):
            await runtime.wait_for(lambda: 1 // 0 == 0)
        tries = [False]
        late = asyncio.create_task(runtime.wait_for(tries.pop))
        await asyncio.sleep(0)
        runtime.notify()
        with pytest.raises(IndexError):
            await late
        await runtime.stop()

    run(main)


def test_a_start_that_fails_is_raised_and_undone(path: Path) -> None:
    first, never = Copier("first"), Copier("never")

    class Unable(Copier):
        async def start(self) -> None:
            await super().start()
            raise RuntimeError("no store")

    unable = Unable("unable")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no store"):
            await runtime_of(path, first, unable, never).start()

    run(main)
    assert (first.happened, unable.happened, never.happened) == (["start", "stop"], ["start", "stop"], [])


def test_every_stage_is_stopped_although_one_cannot(path: Path) -> None:
    first = Copier("first")

    class Unstoppable(Copier):
        async def stop(self) -> None:
            raise RuntimeError("will not stop")

    async def main() -> None:
        runtime = runtime_of(path, first, Unstoppable("second"))
        await runtime.start()
        with pytest.raises(RuntimeError, match="will not stop"):
            await runtime.stop()

    run(main)
    assert first.happened == ["start", "stop"]


def test_rows_removed_before_they_were_read_are_an_error_unless_allowed(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("in", 1, retention=LogRetention(max_bytes=10))
        log.append([Outgoing("in", b"0123456789") for _ in range(5)])

    async def refused() -> None:
        with pytest.raises(TransportError, match="offsets 2 to 3 were removed by retention"):
            await runtime_of(path, Copier(store={0: 2})).start()

    async def allowed() -> None:
        app = create_app("test", f"embedded://{path}", topics={"in": 1, "out": 1}, allow_gaps=True)
        runtime = Runtime(app, [Copier(store={0: 2})])
        await runtime.start()
        await runtime.wait_for(lambda: runtime.completed["copier", "in", 0] == 5)
        await runtime.stop()

    run(refused)
    run(allowed)


def test_retention_that_overtakes_a_running_reader_is_an_error(path: Path) -> None:
    class Waiting(Copier):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.go = asyncio.Event(), asyncio.Event()

        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            self.entered.set()
            await self.go.wait()
            yield Work(done=poll.last + 1)

    async def main() -> None:
        stage = Waiting()
        runtime = runtime_of(path, stage)
        await runtime.start()
        with EmbeddedLog.open(path) as log:
            log.create_topic("in", 1, retention=LogRetention(max_bytes=10))
        await runtime.publish([Outgoing("in", b"0123456789")])
        await stage.entered.wait()
        await runtime.publish([Outgoing("in", b"0123456789")])  # the second and last poll handed out
        while handed_out(runtime) < 2:  # noqa: ASYNC110 - it has no event; each turn of the loop brings it nearer
            await asyncio.sleep(0)
        for _ in range(5):
            await runtime.publish([Outgoing("in", b"0123456789") for _ in range(3)])
        stage.go.set()
        with pytest.raises(TransportError, match="were removed by retention"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()

    run(main)


def test_stages_that_cannot_be_told_apart_or_read_nothing_known_are_refused(path: Path) -> None:
    class Lost(Copier):
        topics = ("elsewhere",)

    class Deaf(Copier):
        topics = ()

    async def main() -> None:
        with pytest.raises(ConfigError, match="two stages are called copier"):
            runtime_of(path, Copier(), Copier())
        with pytest.raises(ConfigError, match="stage copier reads elsewhere"):
            runtime_of(path, Lost())
        with pytest.raises(ConfigError, match="stage copier reads no topic"):
            runtime_of(path, Deaf())

    run(main)


@pytest.mark.parametrize("url", ["redis://x", "embedded://", "kafka://", "localhost:9092"])
def test_a_broker_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no broker; write kafka://HOST:PORT or embedded://PATH"):
        create_app("test", url)


def test_a_relative_path_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        app = create_app("test", "embedded://Some/Log.db", topics={"in": 1, "out": 1})
        runtime = Runtime(app, [Copier()])
        await runtime.start()
        await runtime.stop()

    run(main)
    assert (tmp_path / "Some" / "Log.db").is_file()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["Some"]  # no data directory of Faust's
