"""The sample agent: snapshots in, held back until their labels are in, samples out.

Snapshots wait in the log, not in memory: the agent does not take the next poll before the label watermark has passed
the horizon of the one it holds. Then it looks the labels up by key, lets the policy decide, adds the batch features as
of the request time, and publishes.

A policy that looks again later has a lane for each time, and each lane is an agent like this one. What lane k cannot
settle it forwards, as it is, to the *held* topic that lane k + 1 reads and holds back until its own horizon. So the log
is the timer, and only rows that may still give a sample are written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.assemble import assemble_samples
from dovetail.joiners.contracts import BatchFeatures
from dovetail.joiners.hold import Hold
from dovetail.joiners.matching import warm
from dovetail.joiners.meanings.judging import Judged, SampleRule, judge
from dovetail.joiners.meanings.known import marks_of
from dovetail.joiners.outcomes import NO_OUTCOMES
from dovetail.joiners.policies import EMISSIONS, OUTCOMES, Decision
from dovetail.joiners.snapshots.shape import named_as_now
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.encodings.shared import some_rows
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import Progress, SourceFilter, in_lane, with_source_positions
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.labels import LabelStore

__all__ = ["LabelClock", "Lane", "SampleStage", "SampleTarget", "lanes_of", "sample_scope"]


def sample_scope(target: str, lane: int, scene: str = "") -> str:
    """Name of the sample agent of a target and lane of a scene; also of its positions and accounts.

    Target and scene are empty for the primary one and for the one without a name.
    """
    return ".".join(["samples", *filter(None, (scene, target)), *([str(lane)] if lane else [])])


@dataclass(frozen=True, slots=True)
class Lane:
    """One look at the snapshots of one target: where they come from, and where what is not settled goes."""

    target: str
    number: int
    topic: str
    held_topic: str | None
    scene: str = ""

    @property
    def name(self) -> str:
        """Name of its agent."""
        return sample_scope(self.target, self.number, self.scene)


def lanes_of(target: str, snapshots_topic: str, held_topics: Sequence[str], scene: str = "") -> list[Lane]:
    """The lanes of a target, whose agents read the snapshots and then each held topic."""
    topics = [snapshots_topic, *held_topics, None]
    return [Lane(target, k, topic, then, scene) for k, (topic, then) in enumerate(pairwise(topics)) if topic]


@dataclass(frozen=True, slots=True)
class SampleTarget:
    """The samples that are made: in which lane, for which topic, and by which rule rows with a given mark are judged.

    A row's mark says which label meaning it was made under (``meanings/``).
    """

    lane: Lane
    samples_topic: str
    rule_of: Callable[[int], SampleRule]


@dataclass(frozen=True, slots=True)
class LabelClock:
    """How far the labels have come, which says whether a snapshot may go.

    ``watermark`` gives the label watermark (microseconds) from the label store; ``moved`` is signalled when it may have
    changed, and ``look_again_s`` is how often it is looked at when labels are read in another process. ``announce``
    gives what to say for silent label partitions, when nothing else keeps the watermark from reaching a time (see
    :class:`~dovetail.joiners.watermark.SilentPartitions`).
    """

    watermark: Callable[[], int | None]
    moved: Signal
    announce: Callable[[int], Sequence[Outgoing]] = lambda _needed_us: ()
    look_again_s: float = 0.5


class SampleStage(Stage):
    """Makes samples of snapshots and label rows, in one lane of a policy.

    Samples leave in the order of their snapshots in the log, so a replay gives the same sequence. Label rows are marked
    with what became of them by the primary target alone.
    """

    def __init__(
        self,
        target: SampleTarget,
        store: LabelStore,
        features: BatchFeatures,
        clock: LabelClock,
        *,
        on_blocked: Callable[[], None] = lambda: None,
        on_released: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_blocked`` is called when the agent begins to wait; ``on_released``, in the committing thread, after each
        commit.
        """
        self.name = target.lane.name
        self.topics = (target.lane.topic,)
        self._target = target
        self._lane = target.lane
        self._store = store
        self._features = features
        self._clock = clock
        self._hold = Hold(clock.moved, clock.look_again_s)
        self._on_blocked = on_blocked
        self._on_released = on_released
        self._progress: dict[int, Progress] = {}
        #: While held back: the event time (µs) the watermark must pass before the agent goes on; None when it works.
        self.blocked_until_us: int | None = None

    async def start(self) -> None:
        await asyncio.to_thread(warm)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._store.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._hold.forget(partitions)

    def hurry(self) -> None:
        self._hold.hurry()

    @property
    def waiting(self) -> str | None:
        """Until which event time it waits for labels."""
        until_us = self.blocked_until_us
        return None if until_us is None else f"labels up to event time {until_us} us"

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        rows = await compute(wire.decode_arrow, poll, named_as_now)
        stored = self._progress.get(poll.partition, Progress())
        sources = SourceFilter(stored.sources)
        offsets = rows.column("_offset").to_numpy()
        end_us = time_us(rows, "request_time") + self._horizons_us(rows)
        start = 0
        with self._hold.of(poll.partition):
            while start < rows.num_rows:
                found = await self._wait(offsets[start:], end_us[start:])
                if found is None:
                    return
                due, announcements = found
                if announcements:
                    yield Work(outgoing=announcements)
                    continue
                last = int(offsets[start + due - 1])
                yield await compute(self._release, poll, rows.slice(start, due), sources, last + 1)
                start += due

    async def _wait(
        self, offsets: npt.NDArray[np.int64], end_us: npt.NDArray[np.int64]
    ) -> tuple[int, Sequence[Outgoing]] | None:
        """Wait until at least one whole message is due; return the number of leading rows that are.

        Or return announcements that must be made for that. None when there is nothing to wait for any more: the worker
        stops, or the partition has gone.
        """
        try:
            return await self._hold.until(partial(self._look, offsets, end_us))
        finally:
            self.blocked_until_us = None

    async def _look(
        self, offsets: npt.NDArray[np.int64], end_us: npt.NDArray[np.int64]
    ) -> tuple[int, Sequence[Outgoing]] | None:
        """As :meth:`_wait`, of what is so now; None when neither is."""
        watermark = await compute(self._clock.watermark)
        if watermark is not None and (due := _due(offsets, end_us, watermark)):
            return due, ()
        blocked_until_us = int(end_us[offsets == offsets[0]].max())
        if announcements := await compute(self._clock.announce, blocked_until_us + 1):
            return 0, announcements
        self.blocked_until_us = blocked_until_us
        self._on_blocked()
        return None

    def _release(self, poll: Poll, rows: pa.Table, sources: SourceFilter, next_offset: int) -> Work:
        read, newest_us = rows.num_rows, int(time_us(rows, "request_time").max())
        fresh = sources.admit(rows)
        rows = rows if fresh.all() else some_rows(rows, np.flatnonzero(fresh))
        labels, events = self._store.lookup_both(pc.unique(rows.column("request_id")).to_pylist())
        outgoing: list[Outgoing] = []
        decisions, outcomes, stood_in = [], [NO_OUTCOMES], 0
        for run, rule in self._runs(rows):
            judged = judge(run, labels, events, rule, self._lane.number)
            outgoing += self._outgoing(poll.partition, run, judged)
            decisions.append(judged.decision)
            stood_in += judged.stood_in
            if not self._lane.target:
                outcomes.append(judged.outcomes)
        accounts = self._accounts(poll, read, decisions, stood_in)
        before = self._progress.get(poll.partition, Progress())
        progress = Progress(next_offset, max(newest_us, before.watermark_us or newest_us), sources=sources.state)

        def commit() -> None:
            self._store.mark(
                self.name,
                poll.partition,
                expected=self._progress.get(poll.partition, Progress()).next_offset,
                progress=progress,
                outcomes=pa.concat_tables(outcomes),
                accounts=accounts,
            )
            self._progress[poll.partition] = progress
            self._on_released()

        return Work(outgoing=outgoing, commit=commit, done=next_offset)

    def _horizons_us(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """How long after its request each row is judged in this lane, int64 [n] µs."""
        marks, index = np.unique(marks_of(rows), return_inverse=True)
        lane = self._lane.number
        each = [self._target.rule_of(mark).policy.horizons_us[lane] for mark in marks.tolist()]
        return np.array(each, dtype=np.int64)[index]

    def _runs(self, rows: pa.Table) -> Iterator[tuple[pa.Table, SampleRule]]:
        """The rows that stand together and are judged by one rule, in their order."""
        marks = marks_of(rows)
        starts = np.flatnonzero(np.r_[True, marks[1:] != marks[:-1]]) if len(marks) else marks
        for start, end in pairwise([*starts.tolist(), len(marks)]):
            index = np.arange(start, end)
            yield rows if len(index) == len(marks) else some_rows(rows, index), self._target.rule_of(int(marks[start]))

    def _outgoing(self, partition: int, rows: pa.Table, judged: Judged) -> list[Outgoing]:
        decision = judged.decision
        outgoing = []
        if len(decision.rows):
            chosen = self._with_sources(some_rows(rows, decision.rows).combine_chunks())
            samples = assemble_samples(
                in_lane(chosen, self._lane.number),
                self._features,
                label=decision.label,
                weight=decision.weight,
                emission=decision.emission,
                extra=decision.extra,
                times=judged.times,
                values=judged.values,
            )
            outgoing.append(Outgoing(self._target.samples_topic, wire.encode(samples), partition=partition))
        if self._lane.held_topic is not None and decision.held.any():
            held = self._with_sources(some_rows(rows, np.flatnonzero(decision.held)).combine_chunks())
            outgoing.append(Outgoing(self._lane.held_topic, wire.encode(held), partition=partition))
        return outgoing

    def _with_sources(self, rows: pa.Table) -> pa.Table:
        """``rows`` with the positions of their snapshots as source: their own in lane 0, carried along after it."""
        return with_source_positions(rows) if self._lane.number == 0 else rows

    def _accounts(self, poll: Poll, read: int, decisions: Sequence[Decision], stood_in: int) -> list[Account]:
        """Rows by outcome; samples by emission; rows forwarded to the next lane; those that no first label exposed."""
        rows = _counts(OUTCOMES, [decision.outcome for decision in decisions])
        made = _counts(EMISSIONS, [decision.emission for decision in decisions])
        forwards = self._lane.held_topic is not None
        held = sum(int(decision.held.sum()) for decision in decisions) if forwards else 0
        books = {
            self.name: {READ: read, **rows, "duplicate": read - sum(rows.values())},
            f"{self.name}.made": {READ: sum(made.values()), **made},
            f"{self.name}.held": {READ: held, "forwarded": held},
        }
        if stood_in:
            books[f"{self.name}.stood_in"] = {READ: stood_in, "stood_in": stood_in}
        return [
            Account(stage, poll.topic, poll.partition, what, n)
            for stage, counts in books.items()
            for what, n in counts.items()
        ]


def _counts(names: Sequence[str], indexes: Sequence[npt.NDArray[np.int8]]) -> dict[str, int]:
    """How often each name is meant by indexes into ``names``."""
    counts = np.bincount(np.concatenate([np.zeros(0, dtype=np.int8), *indexes]), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _due(offsets: npt.NDArray[np.int64], end_us: npt.NDArray[np.int64], watermark_us: int) -> int:
    """Number of leading rows, whole messages only, whose horizons have all passed."""
    waiting = np.flatnonzero(end_us >= watermark_us)
    if len(waiting) == 0:
        return len(offsets)
    return int(np.searchsorted(offsets, offsets[waiting[0]]))
