"""``dovetail worker``: the worker process of a project."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry

from dovetail.app.datasets import datasets
from dovetail.app.flow import Flow
from dovetail.app.quality.alert_metrics import AlertMetrics
from dovetail.app.quality.live import LiveQuality, sketched
from dovetail.app.quality.webhook import webhook_of
from dovetail.app.roles import roles_of
from dovetail.app.storage import place_of_table
from dovetail.app.tracing.spans import spans_of
from dovetail.app.worker import Worker, assemble, label_watermark
from dovetail.cli.console import console_of
from dovetail.features import Project, load
from dovetail.platform.clock import SystemClock
from dovetail.platform.errors import ConfigError, DovetailError, StaleCommit
from dovetail.platform.extras import needs_extra
from dovetail.platform.lake.opened_table import lake_table
from dovetail.platform.logs import Event, set_up_logs
from dovetail.platform.masking import masked
from dovetail.platform.process.health import HealthServer
from dovetail.platform.process.lifecycle import leave, run_process
from dovetail.platform.process.metrics import WorkerMetrics
from dovetail.platform.process.monitor import Monitor, Pulse
from dovetail.platform.process.watchdog import Watchdog

if TYPE_CHECKING:
    from dovetail.api.application import Surroundings
    from dovetail.api.process import Api

__all__ = ["run"]

_US = 1_000_000
#: How often it is looked for windows of data quality that have ended.
_LOOK_S = 10.0
_log = logging.getLogger(__name__)


class _Late:
    """An observer that is made before what it observes."""

    metrics: WorkerMetrics

    def polled(self, stage: str, topic: str, messages: int) -> None:
        self.metrics.polled(stage, topic, messages)

    def committed(self, stage: str, seconds: float) -> None:
        self.metrics.committed(stage, seconds)


def _require_tables(project: Project) -> None:
    """Find out now, and not at the first request, that batch features have nothing to be computed from.

    Raises:
        ConfigError: an offline table that a batch view reads is not there, or cannot be read by what is installed.
    """
    for view in project.batch_views.values():
        for table in view.tables:
            where = place_of_table(project.config, table)
            path = project.config.path(table.path)
            if lake_table(where) is None and not path.exists():
                raise ConfigError(
                    f"offline table {table.schema.name}, which {view.file} reads: {path} does not exist; write it, "
                    f"Parquet with the columns of {table.schema.file}, or correct [tables.{table.schema.name}] path"
                )


async def _until_idle(worker: Worker) -> None:
    flow = Flow(worker)
    flow.require_all()
    announced = await flow.until_idle()
    _log.info(Event("idle", watermarks=announced))


async def _guard(worker: Worker, monitor: Monitor, watchdog: Watchdog, every_s: float) -> None:
    """Look whether the worker moves, again and again; never, for ``every_s`` 0."""
    if not every_s:
        await asyncio.Event().wait()
    while True:
        watchdog.look(worker.runtime.tenure.settled, await monitor.moving())
        await asyncio.sleep(every_s)


async def _judge(live: LiveQuality | None) -> None:
    """Judge windows as they end; without end, where nothing is to be judged here."""
    while live is not None:
        try:
            await asyncio.to_thread(live.look)
        except DovetailError as error:  # the flow does not depend on being judged; what is not judged now is later
            _log.warning(Event("quality not judged", error=masked(str(error))))
        await asyncio.sleep(_LOOK_S)
    await asyncio.Event().wait()


def _live_quality(worker: Worker, metrics: CollectorRegistry) -> LiveQuality | None:
    """The judge of data quality, in a worker that archives; None where ``[quality] live`` is not set."""
    project, quality = worker.project, worker.project.config.quality
    if not quality.live or "archive" not in worker.roles:
        return None
    metrics.register(AlertMetrics(worker.stores.registry, quality.window))
    archived = [sketched(project, dataset) for dataset in datasets(project)]
    return LiveQuality(
        project, worker.stores.registry, archived, SystemClock(), worker.runtime.ends, webhook_of(quality)
    )


def _api_of(project: Project) -> Api | None:
    """The HTTP API of a project that has one."""
    if project.config.api is None:
        return None
    with needs_extra("the HTTP API", "api", "or run the worker with --no-api"):
        from dovetail.api.process import Api  # its libraries take a second to import, and are an extra
    return Api(project.config)


def _waits(worker: Worker) -> dict[str, str]:
    """By stage, what it waits for; of those that wait."""
    return {stage.name: waits for stage in worker.stages.values() if (waits := stage.waiting) is not None}


def _surroundings(monitor: Monitor) -> Surroundings:
    from dovetail.api.application import Surroundings

    return Surroundings(monitor.alive, monitor.ready, REGISTRY)


def run(
    project: Path, roles: Sequence[str], options: dict[str, Any], *, until_idle: bool = False, serve_api: bool = True
) -> None:
    """Run until SIGINT or SIGTERM; what ends it otherwise is raised. ``options`` replace values of ``[worker]``.

    ``serve_api``: with the HTTP API, in a project that has ``[api]``.
    ``until_idle``: or until everything that the topics hold is handled, and what waits at their ends released.
    """
    if until_idle and roles:
        raise ConfigError("--until-idle needs all roles in one process, to see that all is done; leave out --agents")
    loaded = load(project, worker=options) if options else load(project)
    if {"snapshots", "samples"} & set(roles_of(loaded.config, roles)):
        _require_tables(loaded)
    settings, clock, observer = loaded.config.worker, SystemClock(), _Late()
    set_up_logs(settings.log_level, as_json=settings.log_json)
    api = _api_of(loaded) if serve_api else None
    beside = [] if api is None else [api.replies]
    spans = spans_of(loaded.config.name) if settings.tracing else None
    worker = assemble(loaded, roles=roles, observer=observer, load_beside=True, beside=beside, spans=spans)
    pulse, timeout_us = Pulse(), settings.watchdog_timeout
    monitor = Monitor(worker.runtime, pulse, loop_timeout_s=timeout_us / _US)
    observer.metrics = WorkerMetrics(
        REGISTRY,
        clock,
        lag=monitor.lag,
        accounts=worker.accounts,
        watermark_us=lambda: label_watermark(loaded.config, worker.stores.labels),
        loop_lag_s=pulse.lag_s,
    )
    group, live = worker.runtime.app.conf.id, _live_quality(worker, REGISTRY)
    watchdog = Watchdog(clock, timeout_us, group)

    async def watch() -> None:
        guarding = asyncio.ensure_future(_guard(worker, monitor, watchdog, timeout_us / _US / 10))
        tasks = {guarding, asyncio.ensure_future(_judge(live))}
        tasks |= {asyncio.ensure_future(_until_idle(worker))} if until_idle else set()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    with ExitStack() as stack:
        stack.callback(worker.stores.close)
        if spans is not None:
            stack.callback(spans.close)
        watching: Callable[[], Awaitable[None]] = watch
        if api is not None:
            stack.callback(api.close)
            watching = api.beside(loaded, worker.stores, worker.runtime, _surroundings(monitor), watch)
        if loaded.config.console is not None:
            console = console_of(loaded, loaded.config.console, partial(_waits, worker))
            stack.callback(console.close)
            watching = console.beside(watching)
        if settings.health_port is not None:
            server = HealthServer(settings.health_host, settings.health_port, monitor.alive, monitor.ready, REGISTRY)
            stack.callback(server.close)
            _log.info(Event("health server", url=server.url, paths="/healthz, /readyz, /metrics"))
        broker = masked(str(worker.runtime.app.conf.broker[0]))
        _log.info(Event("starting", stages=", ".join(worker.stages), broker=broker, group=group))

        async def started() -> None:
            _log.info(Event("started", group=group))

        try:
            run_process(
                worker.runtime,
                watch=watching,
                pulse=pulse,
                stop_timeout_s=settings.stop_timeout / _US,
                loop_timeout_s=timeout_us / _US,
                on_started=started,
            )
        except StaleCommit:
            _log.warning(
                "if this repeats, another group than %s has one of the roles %s: each role may run in one group only",
                group,
                ", ".join(worker.roles),
            )
            raise
        _log.info(Event("stopped", group=group))
    leave()
