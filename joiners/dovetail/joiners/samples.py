"""The sample agent: snapshots in, held back until their labels are in, samples out.

Snapshots wait in the log, not in memory: the agent does not take the next poll before the label watermark has passed
the windows of the one it holds. Then it looks the labels up by key, drops what was never exposed, adds the batch
features as of the request time, and publishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.contracts import BatchFeatures
from dovetail.joiners.policies import Decision, Delayed
from dovetail.joiners.snapshots import request_rows
from dovetail.platform import wire
from dovetail.platform.accounts import READ, Account
from dovetail.platform.intake import time_us
from dovetail.platform.positions import SourceFilter, with_source_positions
from dovetail.platform.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.labels import LabelStore, joined_keys
from dovetail.platform.stores.ledger import Progress

__all__ = ["SampleStage", "match_labels"]

_NEVER = np.iinfo(np.int64).max
_KEY = ("request_id", "item_id")
#: How often another process's label agent is looked at, in seconds.
_LOOK_AGAIN_S = 0.5


def match_labels(
    snapshots: pa.Table, labels: pa.Table
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each kind of label: effective and event time by snapshot row, int64 µs, int64 max where there is none.

    ``labels`` has the columns of LABEL_ROWS and at most one row per (request_id, item_id, kind).
    """
    mine = joined_keys(snapshots, _KEY)
    matched = {}
    for kind in pc.unique(labels.column("kind")).to_pylist():
        rows = labels.filter(pc.equal(labels.column("kind"), kind)).combine_chunks()
        index = pc.index_in(mine, value_set=joined_keys(rows, _KEY)).fill_null(-1).to_numpy()
        found = index >= 0
        times = []
        for name in ("effective_us", "event_time_us"):
            values = np.full(len(index), _NEVER, dtype=np.int64)
            values[found] = rows.column(name).to_numpy()[index[found]]
            times.append(values)
        matched[kind] = (times[0], times[1])
    return matched


class SampleStage(Stage):
    """Makes samples of snapshots and label rows.

    ``watermark`` gives the label watermark (microseconds) from the label store; ``moved`` is signalled when it may
    have changed; ``on_blocked`` is called when the agent begins to wait. Samples leave in the order of their snapshots
    in the log, so a replay gives the same sequence.
    """

    def __init__(
        self,
        topic: str,
        samples_topic: str,
        policy: Delayed,
        kinds: tuple[str, ...],
        store: LabelStore,
        features: BatchFeatures,
        *,
        watermark: Callable[[], int | None],
        moved: Signal,
        on_blocked: Callable[[], None],
    ) -> None:
        self.name = "samples"
        self.topics = (topic,)
        self._samples_topic = samples_topic
        self._policy = policy
        self._kinds = kinds
        self._store = store
        self._features = features
        self._watermark = watermark
        self._moved = moved
        self._on_blocked = on_blocked
        self._progress: dict[int, Progress] = {}
        #: While held back: the event time (µs) the watermark must pass before the agent goes on; None when it works.
        self.blocked_until_us: int | None = None

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._store.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        rows = await asyncio.to_thread(wire.decode_arrow, poll)
        stored = self._progress.get(poll.partition, Progress())
        sources = SourceFilter(stored.sources)
        offsets = rows.column("_offset").to_numpy()
        end_us = self._policy.end_us(time_us(rows, "request_time"))
        start = 0
        while start < rows.num_rows:
            stop = await self._wait(offsets, end_us, start)
            last = int(offsets[stop - 1])
            yield await asyncio.to_thread(self._release, poll, rows.slice(start, stop - start), sources, last + 1)
            start = stop

    async def _wait(self, offsets: npt.NDArray[np.int64], end_us: npt.NDArray[np.int64], start: int) -> int:
        """Wait until at least one whole message from ``start`` is due; return the row after the last one due."""
        listener = self._moved.listen()
        try:
            while True:
                watermark = await asyncio.to_thread(self._watermark)
                if watermark is not None:
                    stop = _due(offsets[start:], end_us[start:], watermark)
                    if stop:
                        return start + stop
                self.blocked_until_us = int(end_us[start:][offsets[start:] == offsets[start]].max())
                self._on_blocked()
                await listener.wait(_LOOK_AGAIN_S)
        finally:
            self.blocked_until_us = None
            listener.close()

    def _release(self, poll: Poll, rows: pa.Table, sources: SourceFilter, next_offset: int) -> Work:
        fresh = sources.admit(rows)
        duplicates = rows.num_rows - int(fresh.sum())
        rows = rows.filter(pa.array(fresh)) if duplicates else rows
        labels = self._store.lookup(pc.unique(rows.column("request_id")).to_pylist())
        matched = match_labels(rows, labels)
        request_time = time_us(rows, "request_time")
        effective = {kind: times[0] for kind, times in matched.items()}
        decision = self._policy.decide(request_time, effective)
        outgoing = []
        if decision.sampled.any():
            samples = self._samples(rows, decision, matched)
            outgoing.append(Outgoing(self._samples_topic, wire.encode(samples), partition=poll.partition))
        sampled = int(decision.sampled.sum())
        counts = {
            READ: rows.num_rows + duplicates,
            "sampled": sampled,
            "unexposed": rows.num_rows - sampled,
            "duplicate": duplicates,
        }
        accounts = [Account(self.name, poll.topic, poll.partition, what, n) for what, n in counts.items()]
        outcomes = self._outcomes(rows, effective, decision, self._policy.end_us(request_time))

        def commit() -> None:
            progress = Progress(next_offset, sources=sources.state)
            self._store.mark(
                self.name,
                poll.partition,
                expected=self._progress.get(poll.partition, Progress()).next_offset,
                progress=progress,
                outcomes=outcomes,
                accounts=accounts,
            )
            self._progress[poll.partition] = progress

        return Work(outgoing=outgoing, commit=commit, done=next_offset)

    def _samples(
        self,
        rows: pa.Table,
        decision: Decision,
        matched: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    ) -> pa.Table:
        keep = pa.array(decision.sampled)
        chosen = rows.filter(keep).combine_chunks()
        features = self._features.complete(request_rows(chosen), chosen)
        columns = {name: chosen.column(name) for name in ("request_id", "item_id", "request_time")}
        columns |= {name: features.column(name) for name in features.column_names if name not in columns}
        columns["label"] = pa.array(decision.positive[decision.sampled].astype(np.int8), pa.int8())
        columns["weight"] = pa.array(decision.weight[decision.sampled], pa.float32())
        end_us = self._policy.end_us(time_us(chosen, "request_time"))
        for kind in self._kinds:
            none = np.full(rows.num_rows, _NEVER, dtype=np.int64)
            effective, event_time = matched.get(kind, (none, none))
            counts = effective[decision.sampled] <= end_us
            times = pa.array(np.where(counts, event_time[decision.sampled], 0), pa.int64(), mask=~counts)
            columns[f"{kind}_time"] = times.cast(pa.timestamp("us"))
        columns["score"] = chosen.column("score")
        columns["model_version"] = chosen.column("model_version")
        columns |= {name: chosen.column(name) for name in ("_partition", "_offset", "_row")}
        return with_source_positions(pa.table(columns))

    def _outcomes(
        self,
        rows: pa.Table,
        effective: Mapping[str, npt.NDArray[np.int64]],
        decision: Decision,
        end_us: npt.NDArray[np.int64],
    ) -> pa.Table:
        """What became of each label row that met its snapshot: sampled, late, or unexposed (no exposure in time)."""
        parts = []
        for kind, times in effective.items():
            present = times != _NEVER
            what = np.where(times > end_us, "late", np.where(decision.sampled, "sampled", "unexposed"))[present]
            met = rows.select(["request_id", "item_id"]).filter(pa.array(present))
            parts.append(
                pa.table(
                    {
                        "request_id": met.column("request_id").cast(pa.string()),
                        "item_id": met.column("item_id").cast(pa.string()),
                        "kind": pa.array([kind] * met.num_rows, pa.string()),
                        "outcome": pa.array(what.tolist(), pa.string()),
                    }
                )
            )
        empty = pa.schema([(name, pa.string()) for name in ("request_id", "item_id", "kind", "outcome")])
        return wire.concat(parts, empty)


def _due(offsets: npt.NDArray[np.int64], end_us: npt.NDArray[np.int64], watermark_us: int) -> int:
    """Number of leading rows, whole messages only, whose windows have all passed."""
    waiting = np.flatnonzero(end_us >= watermark_us)
    if len(waiting) == 0:
        return len(offsets)
    return int(np.searchsorted(offsets, offsets[waiting[0]]))
