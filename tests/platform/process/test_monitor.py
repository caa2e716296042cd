"""What can be seen of a running worker, and how it is told to others."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry, Gauge

from dovetail.platform.errors import ConfigError, WorkerStuck
from dovetail.platform.process.health import HealthServer
from dovetail.platform.process.metrics import WorkerMetrics
from dovetail.platform.process.monitor import FETCH, Monitor, Pulse
from dovetail.platform.process.watchdog import Watchdog
from dovetail.platform.rows.accounts import Account
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.testing import ManualClock


class Held(Stage):
    """Holds each poll until it is let go; says so when asked to."""

    def __init__(self, name: str = "held", *, topic: str = "in", says_so: bool = False) -> None:
        self.name, self.topics, self.says_so = name, (topic,), says_so
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    @property
    def waiting(self) -> str | None:
        return "labels" if self.says_so else None

    def hurry(self) -> None:
        self.go.set()

    def resume(self, topic: str) -> Mapping[int, int]:
        return {}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.entered.set()
        await self.go.wait()
        yield Work(done=poll.last + 1)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):
        yield


def runtime_of(path: Path, *stages: Stage) -> Runtime:
    app = create_app("test", f"embedded://{path / 'log.db'}", topics={"in": 2}, max_unhandled_polls=1)
    return Runtime(app, stages)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited())


def monitor_of(runtime: Runtime) -> Monitor:
    return Monitor(runtime, Pulse(), loop_timeout_s=60)


def test_ready_from_the_first_positions_until_the_stop(tmp_path: Path) -> None:
    async def main() -> None:
        runtime = runtime_of(tmp_path, Held())
        monitor = monitor_of(runtime)
        assert monitor.lag() == {}
        assert monitor.ready() == (
            False,
            {"ready": False, "partitions": {}, "reason": "stages have not started"},
        )
        await runtime.start()
        await runtime.wait_for(lambda: runtime.tenure.settled)
        assert monitor.ready() == (True, {"ready": True, "partitions": {"in": [0, 1]}})
        await runtime.on_revoked()
        assert monitor.ready()[1]["reason"].startswith("partitions are being assigned")
        await runtime.tenure.open(await runtime.tenure.close())
        await runtime.stop()
        assert monitor.ready()[1]["reason"] == "stopping"
        runtime.on_crash(ValueError("broken"))
        assert monitor.ready()[1]["reason"] == "ValueError: broken"
        assert monitor.alive()[1]["status"] == "failed"

    run(main)


def test_a_loop_without_a_turn_is_not_alive(tmp_path: Path) -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])

    async def main() -> None:
        monitor = Monitor(runtime_of(tmp_path), pulse, loop_timeout_s=60)
        beating = asyncio.create_task(pulse.run())
        await asyncio.sleep(0)
        assert pulse.beats == 1
        now[0] = 60.0
        assert monitor.alive() == (True, {"status": "ok", "event_loop_lag_seconds": 59.75})
        now[0] = 61.0
        well, body = monitor.alive()
        assert not well
        assert (body["status"], body["reason"]) == ("blocked", "the event loop has had no turn for 60.8 s")
        assert Monitor(runtime_of(tmp_path), pulse, loop_timeout_s=0).alive()[0]
        beating.cancel()

    run(main)


def test_a_stage_with_polls_in_hand_is_due_unless_it_says_what_it_waits_for(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Held()
        runtime = runtime_of(tmp_path, stage)
        monitor = monitor_of(runtime)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"0", partition=0)])
        await stage.entered.wait()
        await runtime.publish([Outgoing("in", b"1", partition=0), Outgoing("in", b"2", partition=1)])
        consumer = runtime.consumer
        while consumer.handed_out(TP("in", 1)) != 1:  # noqa: ASYNC110 - the loop's turns bring it nearer
            await asyncio.sleep(0)
        seen = await monitor.moving()
        assert (seen["held", "in", 0].at, seen["held", "in", 0].end, seen["held", "in", 0].due) == (0, 1, True)
        assert seen["held", "in", 1].due
        # One poll at a time: what happens to the one in hand is movement for those that wait behind it.
        assert seen["held", "in", 1].mark[3] == TP("in", 0)  # type: ignore[index]
        # The second message of partition 0 is not handed out, and that is the stage's doing.
        assert (seen[FETCH, "in", 0].end, seen[FETCH, "in", 0].held) == (2, "enough is handed out")
        assert monitor.lag() == {("held", "in", 0): 2, ("held", "in", 1): 1}
        clock = ManualClock()
        watchdog = Watchdog(clock, 1, "test")
        watchdog.look(runtime.tenure.settled, seen)
        clock.advance(1)
        with pytest.raises(WorkerStuck, match="stage held, in, partition 0: at offset 0 of 1; stage held, in, part"):
            watchdog.look(runtime.tenure.settled, await monitor.moving())
        stage.says_so = True
        assert not any(moving.due for moving in (await monitor.moving()).values())
        stage.says_so = False
        stage.go.set()
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 3)
        assert not any(moving.due for moving in (await monitor.moving()).values())
        await runtime.stop()

    run(main)


def test_a_consumer_that_no_longer_fetches_is_due(tmp_path: Path) -> None:
    """As when its fetcher has died, which Faust does not notice."""

    async def main() -> None:
        stage = Held()
        runtime = runtime_of(tmp_path, stage)
        await runtime.start()
        await runtime.wait_for(lambda: runtime.tenure.settled)
        runtime.consumer.stop_flow()
        await runtime.publish([Outgoing("in", b"0", partition=0)])
        seen = await monitor_of(runtime).moving()
        assert {key for key, moving in seen.items() if moving.due} == {(FETCH, "in", 0)}
        await runtime.stop()

    run(main)


def test_a_partition_that_is_assigned_and_never_sought_is_due(tmp_path: Path) -> None:
    async def main() -> None:
        runtime = runtime_of(tmp_path, Held())
        await runtime.start()
        await runtime.wait_for(lambda: runtime.tenure.settled)
        del runtime.consumer._partitions[TP("in", 1)]
        await runtime.publish([Outgoing("in", b"0", partition=1)])
        seen = await monitor_of(runtime).moving()
        assert {key for key, moving in seen.items() if moving.due} == {(FETCH, "in", 1)}
        await runtime.stop()

    run(main)


def metrics_of(registry: CollectorRegistry, watermark_us: int | None = None) -> WorkerMetrics:
    return WorkerMetrics(
        registry,
        ManualClock(5_000_000),
        lag=lambda: {("samples", "snapshots", 1): 7},
        accounts=lambda: [Account("samples", "snapshots", p, "sampled", 2) for p in range(2)],
        watermark_us=lambda: watermark_us,
        loop_lag_s=lambda: 0.5,
    )


def test_metrics_are_exposed() -> None:
    registry = CollectorRegistry()
    metrics = metrics_of(registry, 2_000_000)
    metrics.polled("samples", "snapshots", 12)
    metrics.committed("samples", 0.02)
    expected: list[tuple[str, dict[str, str], float]] = [
        ("dovetail_lag_messages", {"stage": "samples", "topic": "snapshots", "partition": "1"}, 7),
        ("dovetail_rows_total", {"stage": "samples", "topic": "snapshots", "outcome": "sampled"}, 4),
        ("dovetail_label_watermark_lag_seconds", {}, 3),
        ("dovetail_event_loop_lag_seconds", {}, 0.5),
        ("dovetail_poll_messages_sum", {"stage": "samples", "topic": "snapshots"}, 12),
        ("dovetail_commits_total", {"stage": "samples"}, 1),
        ("dovetail_commit_seconds_bucket", {"stage": "samples", "le": "0.025"}, 1),
        ("dovetail_commit_seconds_bucket", {"stage": "samples", "le": "0.01"}, 0),
    ]
    for name, labels, value in expected:
        assert registry.get_sample_value(name, labels) == value, name


def test_without_a_watermark_there_is_no_lag_of_it() -> None:
    registry = CollectorRegistry()
    metrics_of(registry)
    assert registry.get_sample_value("dovetail_label_watermark_lag_seconds") is None


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_the_server_answers_from_a_thread_of_its_own() -> None:
    registry = CollectorRegistry()
    Gauge("shown", "Shown", registry=registry).set(3)
    state = {"ready": False}

    def broken() -> tuple[bool, dict[str, Any]]:
        raise RuntimeError("no store")

    server = HealthServer("127.0.0.1", 0, lambda: (True, {"status": "ok"}), lambda: (state["ready"], state), registry)
    try:
        assert get(f"{server.url}/healthz") == (200, '{"status": "ok"}\n')
        status, body = get(f"{server.url}/readyz?verbose")
        assert (status, json.loads(body)) == (503, {"ready": False})
        state["ready"] = True
        assert get(f"{server.url}/readyz")[0] == 200
        assert "\nshown 3.0\n" in get(f"{server.url}/metrics")[1]
        assert get(f"{server.url}/") == (404, "there are /healthz, /readyz, /metrics\n")
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another port, or 0"):
            HealthServer("127.0.0.1", port, broken, broken, registry)
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    server = HealthServer("127.0.0.1", 0, broken, broken, registry)
    assert get(f"{server.url}/healthz") == (500, "RuntimeError('no store')\n")
    server.close()
