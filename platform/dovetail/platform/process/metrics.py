"""A worker's metrics for Prometheus; docs/operations.md says what each of them means.

Counters and histograms are counted here, in this process. Lag, rows and watermark are read when somebody asks: rows by
outcome are the accounts in the stores, so they survive restarts, agree with `dovetail audit`, and are the same in every
worker of the project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dovetail.platform.clock import Clock
from dovetail.platform.rows.accounts import Account

__all__ = ["Lag", "WorkerMetrics"]

#: Messages between what a stage has completed and the end of the log, by (stage, topic, partition).
Lag = Mapping[tuple[str, str, int], int]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MESSAGES = tuple(float(10**n) for n in range(6))


class WorkerMetrics(Collector):
    """An observer of a runtime, and a collector of ``registry``.

    ``lag``, ``accounts`` and ``watermark_us`` (None: there is none yet) are called when metrics are asked for, in the
    asker's thread; ``loop_lag_s`` as well.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Clock,
        *,
        lag: Callable[[], Lag],
        accounts: Callable[[], Iterable[Account]],
        watermark_us: Callable[[], int | None],
        loop_lag_s: Callable[[], float],
    ) -> None:
        self._clock, self._lag, self._accounts = clock, lag, accounts
        self._watermark_us, self._loop_lag_s = watermark_us, loop_lag_s
        self._polls = Histogram(
            "dovetail_poll_messages", "Messages of a poll given to a stage", ["stage", "topic"],
            buckets=_MESSAGES, registry=registry,
        )  # fmt: skip
        self._commits = Counter("dovetail_commits", "Commits of a stage", ["stage"], registry=registry)
        self._seconds = Histogram(
            "dovetail_commit_seconds", "Seconds a commit took", ["stage"], buckets=_SECONDS, registry=registry
        )
        registry.register(self)

    def polled(self, stage: str, topic: str, messages: int) -> None:
        """See :class:`~dovetail.platform.runtime.runner.Observer`."""
        self._polls.labels(stage, topic).observe(messages)

    def committed(self, stage: str, seconds: float) -> None:
        """See :class:`~dovetail.platform.runtime.runner.Observer`."""
        self._commits.labels(stage).inc()
        self._seconds.labels(stage).observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering asks no store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read from stores and runtime at each scrape."""
        lag = GaugeMetricFamily(
            "dovetail_lag_messages",
            "Messages of a partition assigned here that a stage has not completed",
            labels=["stage", "topic", "partition"],
        )
        for (stage, topic, partition), messages in sorted(self._lag().items()):
            lag.add_metric([stage, topic, str(partition)], messages)
        yield lag
        rows = CounterMetricFamily(
            "dovetail_rows", "Rows by outcome, of all workers", labels=["stage", "topic", "outcome"]
        )
        totals: dict[tuple[str, str, str], int] = {}
        for account in self._accounts():
            key = (account.stage, account.topic, account.outcome)
            totals[key] = totals.get(key, 0) + account.rows
        for names, count in sorted(totals.items()):
            rows.add_metric(list(names), count)
        yield rows
        watermark_us = self._watermark_us()
        behind = GaugeMetricFamily(
            "dovetail_label_watermark_lag_seconds", "Wall clock minus the label watermark; absent before there is one"
        )
        if watermark_us is not None:
            behind.add_metric([], (self._clock.now_us() - watermark_us) / 1e6)
        yield behind
        yield GaugeMetricFamily(
            "dovetail_event_loop_lag_seconds", "Since the event loop last had a turn", value=self._loop_lag_s()
        )
