"""The four steps, the failures, and waiting, in this process on the embedded log."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from dovetail.platform.errors import ConfigError, TransportError
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention

STEPS = ("computed", "published", "committed", "acknowledged")


class Copier(Stage):
    """Copies ``in`` to ``out``, one work per message, and writes down everything that happens to it."""

    topics: Sequence[str] = ("in",)

    def __init__(self, name: str = "copier", store: dict[int, int] | None = None) -> None:
        self.name = name
        self.store = {} if store is None else store
        self.happened: list[str] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.store)

    async def start(self) -> None:
        self.happened.append("start")

    async def stop(self) -> None:
        self.happened.append("stop")

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        for offset, value in zip(poll.offsets.tolist(), poll.values, strict=True):
            yield self.copy(poll.partition, offset + 1, value or b"")

    def copy(self, partition: int, after: int, value: bytes) -> Work:
        return Work([Outgoing("out", value, partition=0)], lambda: self.commit(partition, after), after)

    def commit(self, partition: int, after: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.store[partition] = after
        self.happened.append(f"commit {after}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    # A crash is logged by every service it takes down.
    with caplog.at_level(logging.CRITICAL):
        yield


def runtime_of(path: Path, *stages: Stage, **options: Any) -> Runtime:
    return Runtime(create_app("test", f"embedded://{path}", topics={"in": 1, "out": 1}), stages, **options)


def contents(path: Path, topic: str) -> list[bytes | None]:
    with EmbeddedLog.open(path) as log:
        poll = log.read(topic, 0, 0)
        return [] if poll is None else list(poll.values)


def _handed_out(runtime: Runtime) -> int:
    outstanding: int = runtime.app.consumer._partitions[TP("in", 0)].acks.outstanding  # type: ignore[attr-defined]
    return outstanding


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited())


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
        while _handed_out(runtime) < 2:  # noqa: ASYNC110 - it has no event; each turn of the loop brings it nearer
            await asyncio.sleep(0)
        for _ in range(5):
            await runtime.publish([Outgoing("in", b"0123456789") for _ in range(3)])
        stage.go.set()
        with pytest.raises(TransportError, match="were removed by retention"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()

    run(main)


class Gatherer(Copier):
    """Keeps what it reads until it is asked to settle."""

    def __init__(self, name: str = "gatherer") -> None:
        super().__init__(name)
        self.held: list[bytes] = []
        self.after = 0
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.entered.set()
        await self.go.wait()
        self.held += [value for value in poll.values if value is not None]
        self.after = poll.last + 1
        nothing: tuple[Work, ...] = ()
        for work in nothing:
            yield work

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        self.happened.append(f"settle {topic} {partition}" + stopping * ", stopping")
        if self.held:
            value, self.held = b"".join(self.held), []
            yield self.copy(partition, self.after, value)


def test_a_stage_settles_between_two_polls_by_the_same_steps(path: Path) -> None:
    async def main() -> None:
        gatherer = Gatherer()
        runtime = runtime_of(path, gatherer, on_step=lambda _, step: gatherer.happened.append(step), tick_s=0)
        await runtime.tick()  # nothing is assigned before the start
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a"), Outgoing("in", b"b")])
        await gatherer.entered.wait()
        ticking = asyncio.create_task(runtime.tick())
        await asyncio.sleep(0)
        assert gatherer.happened == ["start"]  # not while it handles a poll
        gatherer.go.set()
        await ticking
        assert gatherer.happened == ["start", "settle in 0", "computed", "published", "commit 2", *STEPS[2:]]
        assert runtime.completed["gatherer", "in", 0] == 2
        assert runtime.app.consumer.committable(TP("in", 0)) == 2  # type: ignore[attr-defined]
        await runtime.stop()
        await runtime.tick()  # no more

    run(main)
    assert contents(path, "out") == [b"ab"]


def test_a_stage_that_waits_does_not_keep_the_others_from_settling(path: Path) -> None:
    """A snapshot may wait for its labels for days; the archive stores after max_delay all the same."""

    async def main() -> None:
        waiting, gatherer = Gatherer("waiting"), Gatherer()
        gatherer.go.set()
        runtime = runtime_of(path, waiting, gatherer, tick_s=0.001)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a")])
        await waiting.entered.wait()
        await runtime.wait_for(lambda: runtime.completed.get(("gatherer", "in", 0)) == 1)
        assert runtime.at_work("waiting") == TP("in", 0)
        waiting.go.set()
        await runtime.wait_for(lambda: runtime.completed.get(("waiting", "in", 0)) == 1)
        await runtime.stop()

    run(main)


def test_a_stop_lets_stages_settle_while_their_partitions_are_theirs_and_then_forget(path: Path) -> None:
    class Leaving(Gatherer):
        def forget(self, topic: str, partitions: Collection[int]) -> None:
            self.happened.append(f"forget {topic} {sorted(partitions)}")

    async def main() -> None:
        gatherer = Leaving()
        gatherer.go.set()
        runtime = runtime_of(path, gatherer, tick_s=0)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a")])
        await runtime.wait_for(lambda: runtime.handled["gatherer", "in", 0] == 1)
        await runtime.stop()
        assert gatherer.happened == ["start", "settle in 0, stopping", "commit 1", "forget in [0]", "stop"]
        assert runtime.completed["gatherer", "in", 0] == 1

    run(main)
    assert contents(path, "out") == [b"a"]


def test_a_stage_that_cannot_settle_when_it_stops_fails_the_worker_and_the_others_stop(path: Path) -> None:
    class Broken(Gatherer):
        async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
            raise ValueError("no space")
            yield Work()

    async def main() -> None:
        copier = Copier()
        runtime = runtime_of(path, copier, Broken(), tick_s=0)
        await runtime.start()
        await runtime.stop()
        assert copier.happened[-1] == "stop"
        with pytest.raises(ValueError, match="no space"):
            await runtime.wait_for(lambda: False)

    run(main)


def test_a_stage_that_cannot_settle_ends_the_worker(path: Path) -> None:
    class Broken(Gatherer):
        async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
            yield Work(done=1)  # it was given nothing

    async def main() -> None:
        runtime = runtime_of(path, Broken(), tick_s=0.001)

        async def work() -> None:
            await runtime.start()  # it may be noticed before everything has started
            await runtime.wait_for(lambda: False)

        with pytest.raises(TransportError, match=r"done up to offset 1 of in, partition 0, but was given .* below 0"):
            await work()
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
    with pytest.raises(ConfigError, match="use kafka://HOST:PORT or embedded://PATH"):
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
