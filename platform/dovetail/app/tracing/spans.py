"""Spans of OpenTelemetry, made of times that were noted, under the traces that messages brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dovetail.app.tracing.phases import Phase
from dovetail.platform.extras import needs_extra
from dovetail.platform.stage import Poll

__all__ = ["Spans", "Traced", "spans_of"]


class Traced(NamedTuple):
    """A message that brings a trace: its offset, and its headers ``traceparent`` and ``tracestate``."""

    offset: int
    headers: Mapping[str, bytes]


class Spans:
    """Tells polls as spans. Whether a trace is kept, its sampled flag and the provider's sampler say."""

    def __init__(self, provider: Any) -> None:
        """``provider`` is a TracerProvider of OpenTelemetry's SDK."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._kind = provider, SpanKind.CONSUMER
        self._tracer = provider.get_tracer("dovetail")
        self._extract = TraceContextTextMapPropagator().extract

    def tell(
        self, root: str, poll: Poll, messages: Sequence[Traced], whole: Phase, phases: Sequence[Phase], failed: str
    ) -> None:
        """A span for each message, below the one that its header names, with a span for each phase in it.

        A header that is none of the W3C's begins no trace, and is no error. ``failed`` names what was raised, if
        anything was.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import Status, StatusCode, get_current_span, set_span_in_context

        for message in messages:
            texts = {name: value.decode("ascii", "replace") for name, value in message.headers.items()}
            parent = self._extract(texts, Context())
            if not get_current_span(parent).get_span_context().is_valid:
                continue
            about = {
                "messaging.system": "dovetail", "messaging.destination.name": poll.topic,
                "messaging.destination.partition.id": str(poll.partition),
                "messaging.kafka.offset": message.offset, "messaging.batch.message_count": len(poll),
            }  # fmt: skip
            span = self._tracer.start_span(root, parent, self._kind, about, start_time=whole.start_ns)
            inside = set_span_in_context(span)
            for phase in phases:
                self._tracer.start_span(phase.name, inside, start_time=phase.start_ns).end(phase.end_ns)
            if failed:
                span.set_status(Status(StatusCode.ERROR, failed))
            span.end(whole.end_ns)

    def close(self) -> None:
        """Send what is still to be sent."""
        self._provider.shutdown()


def spans_of(project: str) -> Spans:
    """Spans that go by OTLP to where OpenTelemetry's environment variables say, under the service ``project``.

    Raises:
        ConfigError: the libraries are not installed.
    """
    with needs_extra("[worker] tracing", "otel"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: project}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(provider)
