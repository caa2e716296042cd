"""Messages that bring a trace are told in it, with their phases; others, and a worker without, cost nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from dovetail.app.tracing.phases import Phases
from dovetail.app.tracing.spans import Spans, spans_of
from dovetail.app.tracing.trace_headers import TraceHeaders, in_the_trace
from dovetail.app.tracing.traced_stage import TracedStage, traced_messages
from dovetail.app.worker import assemble
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.joiners.snapshot_agent import SnapshotStage
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import NOON_MS, at, finished, project_in, request, write_project

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def parent(trace: str = TRACE, flags: str = "01") -> tuple[tuple[str, bytes], ...]:
    return (("traceparent", f"00-{trace}-{PARENT}-{flags}".encode()),)


class Exported:
    """A provider that keeps spans in memory."""

    def __init__(self) -> None:
        self._exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider)

    @property
    def found(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


def test_a_request_and_an_event_are_told_in_their_traces(tmp_path: Path) -> None:
    write_project(tmp_path, messages={})
    sent = [
        ("behaviour", {"user_id": "u", "event_time": at(1)}, parent("1" * 32)),
        ("behaviour", {"user_id": "u", "event_time": at(2)}, ()),
        ("requests", request("first", "u", [1, 2], 10), parent()),
        ("requests", request("unsampled", "u", [1], 11), parent("2" * 32, "00")),
        ("requests", request("wrong", "u", [1], 12), (("traceparent", b"\xffno trace"),)),
        ("requests", request("untraced", "u", [1], 13), ()),
    ]  # fmt: skip
    with EmbeddedLog.open(tmp_path / "state" / "log.sqlite") as log:
        topics = load_config(tmp_path).topics()
        for topic in ("behaviour", "requests"):
            log.create_topic(topic, topics[topic])
        for topic, row, headers in sent:
            log.append([Outgoing(topic, json.dumps(row).encode(), partition=0, timestamp_ms=NOON_MS, headers=headers)])
    exported = Exported()

    async def lived() -> None:
        worker = assemble(project_in(tmp_path), roles=("features", "snapshots"), spans=exported.spans)
        try:
            await worker.runtime.start()
            await worker.runtime.wait_for(lambda: finished(worker))
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    asyncio.run(asyncio.wait_for(lived(), 100))
    roots = {span.name: span for span in exported.found if span.name in ("request", "event")}
    assert set(roots) == {"request", "event"}
    for name, trace, inside in (("request", TRACE, ["features", "score", "snapshot"]), ("event", "1" * 32, ["state"])):
        root = roots[name]
        assert root.context is not None
        assert root.parent is not None
        assert f"{root.context.trace_id:032x}" == trace
        assert f"{root.parent.span_id:016x}" == PARENT
        assert root.attributes is not None
        assert root.attributes["messaging.kafka.offset"] == 0
        children = [span for span in exported.found if span.parent and span.parent.span_id == root.context.span_id]
        assert sorted(span.name for span in children) == inside
        for span in children:
            assert root.start_time <= span.start_time <= span.end_time <= root.end_time  # type: ignore[operator]
        order = sorted(children, key=lambda span: span.start_time or 0)
        assert [span.name for span in order] == inside
    assert len(exported.found) == 4 + 2, "the others have no trace, or one that nobody keeps"


def test_a_worker_without_tracing_has_the_stages_themselves(tmp_path: Path) -> None:
    write_project(tmp_path, messages={})
    worker = assemble(project_in(tmp_path), roles=("features", "snapshots"))
    worker.stores.close()
    assert {type(stage) for stage in worker.stages.values()} == {FeatureStage, SnapshotStage}


def test_a_traced_stage_gathers_as_it_would_without(tmp_path: Path) -> None:
    write_project(tmp_path, messages={})
    worker = assemble(project_in(tmp_path), roles=("features", "snapshots"), spans=Exported().spans)
    worker.stores.close()
    waits = {name: stage.gather.max_wait_us for name, stage in worker.stages.items()}
    assert waits == {"features.behaviour": 20_000, "snapshots": 0}


class Works(Stage):
    """Yields two works, and fails behind the first if it is told to."""

    name, topics = "works", ("t",)

    def __init__(self, *, failing: bool = False) -> None:
        self.failing, self.polls, self.closed = failing, 0, False

    def resume(self, topic: str) -> Mapping[int, int]:
        return {}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.polls += 1
        try:
            yield Work()
            if self.failing:
                raise ValueError("secret")
            yield Work(done=poll.last + 1)
        finally:
            self.closed = True


def poll(*headers: tuple[tuple[str, bytes], ...]) -> Poll:
    size = len(headers)
    offsets = np.arange(size, dtype=np.int64)
    return Poll("t", 0, offsets, offsets, [None] * size, [b""] * size, list(headers))


def traced(stage: Stage, exported: Exported) -> TracedStage:
    ticks = iter(range(1_000, 10_000, 10))
    return TracedStage(stage, exported.spans, Phases(lambda: next(ticks)), root="event", last="state")


async def all_works(stage: Stage, given: Poll) -> list[Work]:
    return [work async for work in stage.handle(given)]


def test_works_are_those_of_the_stage_and_times_are_those_noted() -> None:
    exported, inner = Exported(), Works()
    given = poll(parent(), ())
    assert asyncio.run(all_works(traced(inner, exported), given)) == [Work(), Work(done=2)]
    child, root = exported.found
    assert (root.name, root.start_time, root.end_time) == ("event", 1_000, 1_020)
    assert (child.name, child.start_time, child.end_time) == ("state", 1_010, 1_020)
    assert asyncio.run(all_works(traced(inner, exported), poll((), ()))) == [Work(), Work(done=2)]
    assert len(exported.found) == 2
    assert inner.closed


def test_a_failure_is_told_by_its_kind_and_raised() -> None:
    exported = Exported()
    with pytest.raises(ValueError, match="secret"):
        asyncio.run(all_works(traced(Works(failing=True), exported), poll(parent())))
    root = exported.found[-1]
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "ValueError"


def test_works_that_are_not_asked_for_any_more_close_the_stage() -> None:
    exported, inner = Exported(), Works()

    async def first() -> None:
        works = traced(inner, exported).handle(poll(parent()))
        assert await anext(works) == Work()
        await works.aclose()  # type: ignore[attr-defined]

    asyncio.run(first())
    assert inner.closed
    assert [span.name for span in exported.found] == ["state", "event"]


def test_a_poll_of_many_is_told_by_the_first_hundred() -> None:
    many = poll(*[parent()] * 300, ())
    assert [message.offset for message in traced_messages(many)] == list(range(100))


def test_calls_hand_their_trace_on_and_wrong_ones_none() -> None:
    async def sent(*headers: tuple[bytes, bytes]) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []

        async def app(_scope: object, _receive: object, _send: object) -> None:
            found.extend(in_the_trace(Outgoing("t", b"", headers=(("own", b"x"),))).headers)

        await TraceHeaders(app)({"type": "http", "headers": list(headers)}, None, None)
        return found

    value, own = parent()[0][1], ("own", b"x")
    assert asyncio.run(sent((b"traceparent", value))) == [own, ("traceparent", value)]
    both = asyncio.run(sent((b"traceparent", value), (b"tracestate", b"a=1")))
    assert both == [own, ("traceparent", value), ("tracestate", b"a=1")]
    for wrong in (b"", b"00-x-y-01", value + b"-more", b"ff" + value[2:], b"00-" + b"0" * 32 + value[35:]):
        assert asyncio.run(sent((b"traceparent", wrong), (b"tracestate", b"a=1"))) == [own]
    assert asyncio.run(sent((b"tracestate", b"a=1"))) == [own]


def test_libraries_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"which is not installed: pip install 'dovetail-samples\[otel\]'"):
        spans_of("shop")
