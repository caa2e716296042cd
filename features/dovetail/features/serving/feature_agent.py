"""The feature agent: events into the state of every view that reads their stream.

A view of several streams is fed by the agents of all of them, each its own sources (``sources.py``). Rows of a re-keyed
stream that were published again are dropped by the positions they were made from (``rekeying.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.plan.sources import Place, place_of, source_of
from dovetail.features.stream.arrange import APPLIED, EXPIRED, UNUSED
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, RowOrigin, positions_of, prepare_rows, running_watermark
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.intake import Intake, Received, spoken_ms
from dovetail.platform.rows.positions import Progress, SourceFilter
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll, Stage, Work
from dovetail.platform.stores.online import OnlineStore, ViewCommit

__all__ = ["FeatureStage"]


@dataclass(slots=True)
class _View:
    """A branch of a view, its engine, and what the stored state includes of each partition of the branch's stream."""

    plan: StreamView
    branch: int
    preparer: StreamPreparer
    engine: StreamEngine
    progress: dict[int, Progress]

    @property
    def account(self) -> str:
        return f"features.{self.plan.name}"

    def source(self, partition: int) -> int:
        """The number under which the view keeps a partition of the stream."""
        return source_of(self.plan, Place(self.branch, partition))


@dataclass(slots=True)
class _Part:
    """A poll as a view takes it: the events it has not seen, and what becomes of them and of the view's state."""

    view: _View
    poll: Poll
    before: Progress
    events: pa.Table
    seen: SourceFilter
    counts: dict[str, int]
    watermark: int
    changed: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def source(self) -> int:
        return self.view.source(self.poll.partition)

    def commit(self, received: Received) -> ViewCommit:
        stamps = [self.before.timestamp_ms, spoken_ms(self.poll, received.refused)]
        progress = Progress(
            self.poll.last + 1,
            watermark_us=None if self.watermark == NO_WATERMARK else self.watermark,
            timestamp_ms=max((stamp for stamp in stamps if stamp is not None), default=None),
            sources=self.seen.state,
        )
        plan = self.view.plan
        return ViewCommit(plan.name, self.before.next_offset, progress, self.changed, plan.retention_us)


class FeatureStage(Stage):
    """Reads one stream into the online store.

    All of ``views`` that read the stream move together, in one commit per poll; those that keep the partition under
    another source number (views of a UNION ALL) have a commit of their own after it. A view that was added later, or
    that a crash between two commits left behind, has its own position and takes from each poll what it has not seen.
    Events of several partitions are evaluated and folded at once; a view with collections folds each by itself.
    """

    together = True

    def __init__(
        self,
        stream: Stream,
        views: Sequence[StreamView],
        intake: Intake,
        store: OnlineStore,
        *,
        dead_letter_topic: str,
    ) -> None:
        self.name = f"features.{stream.name}"
        self.topics = (stream.topic,)
        self._rekeyed = stream.rekeyed_from is not None
        self._intake = intake
        self.refusals = intake.refusals
        self._store = store
        self._dead_letter_topic = dead_letter_topic
        self._views = [
            _View(view, number, StreamPreparer(view, number), StreamEngine(view), {})
            for view in views
            for number, branch in enumerate(view.reads)
            if branch.stream.name == stream.name
        ]

    async def start(self) -> None:
        for view in self._views:
            await asyncio.to_thread(view.engine.warm_apply)

    def resume(self, topic: str) -> Mapping[int, int]:
        for view in self._views:
            stored = self._store.progress(view.plan.name).items()
            places = [(place_of(view.plan, source), progress) for source, progress in stored]
            view.progress = {place.partition: found for place, found in places if place.branch == view.branch}
        partitions = {partition for view in self._views for partition in view.progress}
        return {p: min(view.progress.get(p, Progress()).next_offset for view in self._views) for p in partitions}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        [[work]] = await compute(self.works_of, [poll])
        yield work

    def probe(self, poll: Poll) -> None:
        self._works([poll], [self._intake.read(poll)])

    def works_of(self, polls: Sequence[Poll]) -> Sequence[Sequence[Work]]:
        return self._works(polls, [self._intake.admit(poll) for poll in polls])

    def _works(self, polls: Sequence[Poll], received: Sequence[Received]) -> list[list[Work]]:
        parts: list[list[_Part]] = [[] for _ in polls]
        for view in self._views:
            mine = []
            for poll, read, of_poll in zip(polls, received, parts, strict=True):
                before = view.progress.get(poll.partition, Progress())
                if before.next_offset <= poll.last:
                    mine.append(self._part(view, poll, read, before))
                    of_poll.append(mine[-1])
            self._apply(view, [part for part in mine if part.events.num_rows])
        return [[self._work(poll, read, of_poll)] for poll, read, of_poll in zip(polls, received, parts, strict=True)]

    def _work(self, poll: Poll, received: Received, parts: Sequence[_Part]) -> Work:
        """The work of a poll, of what it changes of each view."""
        made = [(part, part.commit(received)) for part in parts]
        changes: dict[int, tuple[list[ViewCommit], list[Account]]] = {}
        for part, change in made:
            commits, accounts = changes.setdefault(part.source, ([], []))
            commits.append(change)
            accounts += [Account(part.view.account, poll.topic, poll.partition, w, n) for w, n in part.counts.items()]

        def commit() -> None:
            for source, (commits, accounts) in changes.items():
                self._store.commit(source, commits, accounts)
            for part, change in made:
                part.view.progress[poll.partition] = change.progress

        letters = wire.letters_to_outgoing(self._dead_letter_topic, poll, received.dead, self.name)
        return Work(outgoing=letters, commit=commit, done=poll.last + 1)

    def _part(self, view: _View, poll: Poll, received: Received, before: Progress) -> _Part:
        events = _since(received.table, before.next_offset)
        read, seen = events.num_rows, SourceFilter(before.sources)
        if self._rekeyed and read:
            events = events.filter(pa.array(seen.admit(events)))
        dead = sum(letter.rows for letter in received.dead if letter.offset >= before.next_offset)
        repeated = int((received.repeated >= before.next_offset).sum())
        counts = {READ: read + dead + repeated, "dead_letter": dead, "duplicate": repeated + read - events.num_rows}
        watermark = NO_WATERMARK if before.watermark_us is None else before.watermark_us
        return _Part(view, poll, before, events, seen, counts, watermark)

    def _apply(self, view: _View, parts: Sequence[_Part]) -> None:
        """Fold the events of parts of different partitions, which all have some, into the states that are stored."""
        if view.engine.collections.collections and len(parts) > 1:  # entries know their source
            for part in parts:
                self._apply(view, [part])
            return
        if not parts:
            return
        events = parts[0].events if len(parts) == 1 else pa.concat_tables([part.events for part in parts])
        prepared = view.preparer.prepare(events.combine_chunks())
        ends = np.cumsum([part.events.num_rows for part in parts]).tolist()
        watermark_before = np.empty(len(prepared.event_time), dtype=np.int64)
        for part, end in zip(parts, ends, strict=True):
            mine = slice(end - part.events.num_rows, end)
            watermark_before[mine], part.watermark = running_watermark(prepared.event_time[mine], part.watermark)
        owner = np.searchsorted(np.array(ends), prepared.kept, side="right")
        keys, codes, bounds = _by_part(*encode_keys(prepared.entity), owner, len(parts))
        rows = prepare_rows(
            view.engine.layout,
            codes,
            prepared.event_time[prepared.kept],
            watermark_before[prepared.kept],
            prepared.arguments,
            prepared.filters,
            view.engine.collections,
            RowOrigin(parts[0].source, positions_of(events)[prepared.kept]),
        )
        states: list[bytes | None] = []
        for part, (start, end) in zip(parts, pairwise(bounds), strict=True):
            states += self._store.read_partition(view.plan.name, part.source, keys[start:end])
        applied = view.engine.apply(states, rows)
        for number, (part, (start, end)) in enumerate(zip(parts, pairwise(bounds), strict=True)):
            some = slice(start, end)
            part.changed = {
                key: new
                for key, old, new in zip(keys[some], states[some], applied.blobs[some], strict=True)
                if new != (old or b"")
            }
            outcomes = applied.outcomes[owner == number]
            by_outcome = np.bincount(outcomes, minlength=3)
            part.counts |= {
                "applied": int(by_outcome[APPLIED]),
                "expired": int(by_outcome[EXPIRED]),
                "unused": int(by_outcome[UNUSED]),
                "filtered": part.events.num_rows - len(outcomes),
            }


def _by_part(
    keys: list[bytes], codes: npt.NDArray[np.int32], owner: npt.NDArray[np.int64], parts: int
) -> tuple[list[bytes], npt.NDArray[np.int32], list[int]]:
    """Keys and codes (as of ``encode_keys``) with a key of its own for each part that rows with the key belong to.

    ``owner``: the part of each row. Returns the keys by part, codes into them, and where each part's keys begin and
    end, ``parts + 1`` numbers.
    """
    if parts == 1:
        return keys, codes, [0, len(keys)]
    mine = codes >= 0
    distinct, found = np.unique(owner[mine] * np.int64(len(keys)) + codes[mine], return_inverse=True)
    own = np.full(len(codes), -1, dtype=np.int32)
    own[mine] = found
    bounds = np.searchsorted(distinct, np.arange(parts + 1) * np.int64(len(keys))).tolist()
    return [keys[code] for code in (distinct % max(len(keys), 1)).tolist()], own, bounds


def _since(events: pa.Table, offset: int) -> pa.Table:
    offsets = events.column("_offset").to_numpy()
    if len(offsets) == 0 or offsets[0] >= offset:
        return events
    return events.slice(int(np.searchsorted(offsets, offset)))
