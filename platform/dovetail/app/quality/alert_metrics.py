"""The alerts of data quality for Prometheus: read from the registry at each scrape, hence those of all workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dovetail.platform.stores.registry.store import Registry

__all__ = ["AlertMetrics"]


class AlertMetrics(Collector):
    """A collector of the alerts that there have been, and of how far windows have been judged."""

    def __init__(self, registry: Registry, window_us: int) -> None:
        self._registry, self._window_us = registry, window_us

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering asks no store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        alerts = CounterMetricFamily(
            "dovetail_quality_alerts", "Windows that broke a rule of data quality, of all workers",
            labels=["dataset", "column", "measure", "severity"],
        )  # fmt: skip
        for each in self._registry.windows.alerts():
            alerts.add_metric([each.dataset, each.column, each.measure, each.severity], each.alerts)
        yield alerts
        judged = GaugeMetricFamily(
            "dovetail_quality_judged_timestamp_seconds", "The end of the newest window that was judged, in event time",
            labels=["dataset"],
        )  # fmt: skip
        for dataset, window_us in sorted(self._registry.windows.newest_judged().items()):
            judged.add_metric([dataset], (window_us + self._window_us) / 1e6)
        yield judged
