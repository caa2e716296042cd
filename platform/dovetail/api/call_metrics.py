"""Counts and times of calls, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["CallMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class CallMetrics:
    """``dovetail_api_calls_total`` by route and status, ``dovetail_api_call_seconds`` by route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "dovetail_api_calls", "Calls of the HTTP API that were answered.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "dovetail_api_call_seconds",
            "Seconds from a call to its answer.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A call of ``route`` was answered with ``status`` after so many seconds."""
        self._calls.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
