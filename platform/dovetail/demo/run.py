"""The demo: the worker over a recorded log, in this process, and the verdicts at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dovetail.app.flow import Flow
from dovetail.app.reports import audit_worker, consistency_of, witness_of
from dovetail.app.reports.verdict_log import log_audit, log_consistency
from dovetail.app.trainer_stage import evaluation_of
from dovetail.app.worker import Worker, assemble
from dovetail.demo.kept_run import project_of_run, write_settings
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.replay import LABELS_EVERY_US, Batch, Replay
from dovetail.demo.shipped import project_folder
from dovetail.features import Project
from dovetail.features.batch.witness import Witnessed
from dovetail.features.stored.consistency import Consistency
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.accounts import READ
from dovetail.platform.rows.audit import Audit
from dovetail.platform.stage import Outgoing
from dovetail.trainer.training import Trained

__all__ = ["DemoResult", "ReplayProgress", "run_demo"]


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """Where the replay is: slices done of all, the event time it has reached (µs), and the trainer's last word."""

    slices: int
    of: int
    time_us: int
    sent: dict[str, int]
    trained: Trained | None


#: Served rows that the independent witness computes; each takes a good part of a second.
_WITNESSED = 5


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of a demo run."""

    log: RecordedLog
    audit: Audit
    consistency: Consistency
    witness: Witnessed
    summary: dict[str, Any]

    @property
    def passed(self) -> bool:
        """All verdicts, and over something: a run that served no value has shown nothing."""
        right = self.consistency.mismatched == 0 and self.witness.mismatched == 0
        return self.audit.balanced and right and self.consistency.compared > 0


async def run_demo(
    log: RecordedLog,
    keep: Path,
    *,
    on_progress: Callable[[ReplayProgress], None],
    on_step: Callable[[str, str], None] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> DemoResult:
    """Replay ``log`` through a worker whose state is in ``keep``; what an earlier run has done there is not done again.

    ``on_step(stage, step)`` is called after each step of each stage's work (see ``runtime/steps.py``). ``overrides``
    replace values of the demo's ``dovetail.toml``.

    Raises:
        ConfigError: ``keep`` holds the run of another log.
        LogLocked: another process is running there.
    """
    started = time.perf_counter()
    _claim(keep, log)
    project = _project(keep, log, overrides or {})
    last: list[Trained] = []
    worker = assemble(project, on_trained=lambda trained: last.__setitem__(slice(None), [trained]), on_step=on_step)
    try:
        await worker.runtime.start()
        await _Conductor(worker, log, on_progress, last).run()
        # With the archives, which no slice waits for: an earlier run may have died when only they were behind.
        await Flow(worker).finish(release=False)
        accounts = audit_worker(worker)
        consistency = consistency_of(worker.project, worker.stores)
        witness = witness_of(worker.project, worker.stores, _WITNESSED)
        log_audit(worker.stores.registry, SystemClock(), accounts)
        log_consistency(worker.stores.registry, SystemClock(), consistency, witness)
    finally:
        await worker.runtime.stop()
        worker.stores.close()
    summary = _summary(worker, accounts, consistency, time.perf_counter() - started)
    return DemoResult(log, accounts, consistency, witness, summary | {"witness": witness.to_json()})


def _project(keep: Path, log: RecordedLog, overrides: Mapping[str, Any]) -> Project:
    """The demo project with its state in ``keep``, the log's offline table, and the label window that suits it.

    A slice's events are in before its requests, so state must reach back at least a slice.
    """
    declared = load_config(project_folder()).streams
    streams = {
        name: {"allowed_lateness": f"{max(stream.allowed_lateness, log.slice_us)}us"}
        for name, stream in declared.items()
    }
    items = keep / "item.parquet"
    if not items.exists():
        pq.write_table(log.items, items.with_suffix(".partial"))
        items.with_suffix(".partial").rename(items)
    write_settings(keep, {"labels": {"window": f"{log.label_window_us}us"}, "streams": streams, **overrides})
    return project_of_run(keep, project_folder())


def _claim(keep: Path, log: RecordedLog) -> None:
    """Mark ``keep`` as this log's, or refuse it when it is another's."""
    keep.mkdir(parents=True, exist_ok=True)
    marker, mine = keep / "demo.json", {"log": log.name, **log.counts}
    if not marker.exists():
        if any(keep.iterdir()):
            raise ConfigError(f"--keep {keep}: not empty and not a demo's folder; choose an empty or a new one")
        marker.write_text(json.dumps(mine) + "\n", encoding="utf-8")
        return
    found = json.loads(marker.read_text(encoding="utf-8"))
    if found != mine:
        raise ConfigError(f"--keep {keep} holds a run of {found}, this is {mine}; choose another folder")


class _Conductor:
    """Sends slice after slice, each phase when the stages are done with the one before."""

    def __init__(
        self, worker: Worker, log: RecordedLog, on_progress: Callable[[ReplayProgress], None], last: Sequence[Trained]
    ) -> None:
        self._runtime = worker.runtime
        self._flow = Flow(worker)
        self._config = worker.project.config
        self._replay = Replay(log, self._config, labels_every_us=LABELS_EVERY_US)
        self._partitions = self._config.topics()
        self._on_progress = on_progress
        self._last = last
        streams = [name for name in worker.stages if name.startswith(("rekey.", "features."))]
        labels = [f"labels.{kind}" for kind in self._config.labels.streams]
        self._phases = (streams, ["snapshots"], labels)

    async def run(self) -> None:
        """Replay to the end, from wherever the topics say it has come."""
        sent = {topic: self._messages(topic) for topic in self._config.topics()}
        for stages in self._phases:
            await self._flow.handled(stages)
        await self._flow.settled()
        for number, (end, phases) in enumerate(self._replay.phases(), start=1):
            for stages, batches in zip(self._phases, phases, strict=True):
                if await self._publish(batches, sent):
                    await self._flow.handled(stages)
                    if stages is self._phases[-1]:
                        await self._flow.settled()
            trained = self._last[0] if self._last else None
            self._on_progress(ReplayProgress(number, len(self._replay), end, dict(sent), trained))

    async def _publish(self, batches: Sequence[Batch], sent: dict[str, int]) -> bool:
        """Publish what the topics do not have yet; whether there was any."""
        fresh: list[Outgoing] = []
        for batch in batches:
            fresh += batch.messages[max(0, sent[batch.topic] - batch.first) :]
            sent[batch.topic] = max(sent[batch.topic], batch.first + len(batch.messages))
        if fresh:
            await self._runtime.publish(fresh)
        return bool(fresh)

    def _messages(self, topic: str) -> int:
        return sum(self._runtime.end_offset(topic, p) or 0 for p in range(self._partitions[topic]))


def _summary(worker: Worker, audit: Audit, consistency: Consistency, seconds: float) -> dict[str, Any]:
    """The run as ``--json`` writes it."""
    outcomes = {stage.stage: {READ: stage.read, **stage.outcomes} for stage in audit.stages}
    streams = [f"archive.{name}" for name in worker.project.config.streams]
    kinds = [f"labels.{kind}" for kind in worker.project.config.labels.streams]
    evaluation = evaluation_of(worker.stages)
    metrics = evaluation.total() if evaluation is not None else None
    return {
        "events": sum(outcomes.get(name, {}).get("archived", 0) for name in streams),
        "requests": outcomes.get("snapshots", {}).get("snapshotted", 0),
        "snapshot_rows": outcomes.get("snapshots.candidates", {}).get("snapshotted", 0),
        "labels": sum(outcomes.get(kind, {}).get("inserted", 0) for kind in kinds),
        "samples": outcomes.get("samples", {}).get("sampled", 0),
        "positives": int(metrics.positive) if metrics else 0,
        "log_loss": metrics.log_loss if metrics else None,
        "auc": metrics.auc if metrics else None,
        "normalized_entropy": metrics.normalised_entropy if metrics else None,
        "calibration": metrics.calibration if metrics else None,
        "consistency": consistency.to_json(),
        "audit": audit.to_json(),
        "seconds": round(seconds, 2),
    }
