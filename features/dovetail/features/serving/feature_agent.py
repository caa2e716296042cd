"""The feature agent: events into the state of every view that reads their stream.

A view of several streams is fed by the agents of all of them, each its own sources (``sources.py``). Rows of a re-keyed
stream that were published again are dropped by the positions they were made from (``rekeying.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.plan.sources import Place, place_of, source_of
from dovetail.features.serving.committed_states import CommittedStates
from dovetail.features.stream.collections.chunks import ChunkPlace
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, RowOrigin, positions_of, prepare_rows, running_watermark
from dovetail.features.stream.vetting import prepared_when_vetted
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


class FeatureStage(Stage):
    """Reads one stream into the online store.

    All of ``views`` that read the stream move together, in one commit per poll; those that keep the partition under
    another source number (views of a UNION ALL) have a commit of their own after it. A view that was added later, or
    that a crash between two commits left behind, has its own position and takes from each poll what it has not seen.
    """

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
        self._states = CommittedStates(store)
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

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._states.forget()

    def resume(self, topic: str) -> Mapping[int, int]:
        self._states.forget()
        for view in self._views:
            stored = self._store.progress(view.plan.name).items()
            places = [(place_of(view.plan, source), progress) for source, progress in stored]
            view.progress = {place.partition: found for place, found in places if place.branch == view.branch}
        partitions = {partition for view in self._views for partition in view.progress}
        return {p: min(view.progress.get(p, Progress()).next_offset for view in self._views) for p in partitions}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        yield await compute(self._admitted, poll)

    def probe(self, poll: Poll) -> None:
        self._work(poll, self._intake.read(poll))

    def _admitted(self, poll: Poll) -> Work:
        return self._work(poll, self._intake.admit(poll))

    def _work(self, poll: Poll, received: Received) -> Work:
        changes: dict[int, tuple[list[ViewCommit], list[Account]]] = {}
        after: list[tuple[_View, Progress]] = []
        for view in self._views:
            before = view.progress.get(poll.partition, Progress())
            if before.next_offset > poll.last:
                continue
            change, counts = self._apply(view, poll, received, before)
            commits, accounts = changes.setdefault(view.source(poll.partition), ([], []))
            commits.append(change)
            accounts += [Account(view.account, poll.topic, poll.partition, what, n) for what, n in counts.items()]
            after.append((view, change.progress))

        def commit() -> None:
            for source, (commits, accounts) in changes.items():
                self._store.commit(source, commits, accounts)
                for change in commits:
                    self._states.committed(source, change)
            for view, progress in after:
                view.progress[poll.partition] = progress

        letters = wire.letters_to_outgoing(self._dead_letter_topic, poll, received.dead, self.name)
        return Work(outgoing=letters, commit=commit, done=poll.last + 1)

    def _apply(
        self, view: _View, poll: Poll, received: Received, before: Progress
    ) -> tuple[ViewCommit, dict[str, int]]:
        events = _since(received.table, before.next_offset)
        read, seen = events.num_rows, SourceFilter(before.sources)
        if self._rekeyed and read:
            fresh = seen.admit(events)
            events = events if fresh.all() else events.filter(pa.array(fresh))
        dead = sum(letter.rows for letter in received.dead if letter.offset >= before.next_offset)
        changed: dict[bytes, bytes] = {}
        watermark = NO_WATERMARK if before.watermark_us is None else before.watermark_us
        repeated = int((received.repeated >= before.next_offset).sum())
        counts = {READ: read + dead + repeated, "dead_letter": dead, "duplicate": repeated + read - events.num_rows}
        if events.num_rows:
            known = prepared_when_vetted(received, view.plan, view.branch) if events is received.table else None
            prepared = known or view.preparer.prepare(events)
            watermark_before, watermark = running_watermark(prepared.event_time, watermark)
            keys, codes = encode_keys(prepared.entity)
            source = view.source(poll.partition)
            rows = prepare_rows(
                view.engine.layout,
                codes,
                prepared.event_time[prepared.kept],
                watermark_before[prepared.kept],
                prepared.arguments,
                prepared.filters,
                view.engine.collections,
                RowOrigin(source, positions_of(events)[prepared.kept]),
            )
            states = self._states.read(view.plan.name, source, before.next_offset, keys)

            def chunks(places: Sequence[ChunkPlace]) -> Sequence[bytes | None]:
                asked = [keys[key] + suffix for key, suffix in places]
                return self._states.read(view.plan.name, source, before.next_offset, asked)

            applied, changed_chunks = view.engine.apply_in_chunks(states, rows, chunks)
            changed = {
                key: new for key, old, new in zip(keys, states, applied.blobs, strict=True) if new != (old or b"")
            }
            changed |= {keys[key] + suffix: chunk for (key, suffix), chunk in changed_chunks.items()}
            counts |= {
                "applied": applied.applied,
                "expired": applied.expired,
                "unused": applied.unused,
                "filtered": events.num_rows - len(prepared.kept),
            }
        stamps = [stamp for stamp in (before.timestamp_ms, spoken_ms(poll, received.refused)) if stamp is not None]
        progress = Progress(
            poll.last + 1,
            watermark_us=None if watermark == NO_WATERMARK else watermark,
            timestamp_ms=max(stamps, default=None),
            sources=seen.state,
        )
        return ViewCommit(view.plan.name, before.next_offset, progress, changed, view.plan.retention_us), counts


def _since(events: pa.Table, offset: int) -> pa.Table:
    offsets = events.column("_offset").to_numpy()
    if len(offsets) == 0 or offsets[0] >= offset:
        return events
    return events.slice(int(np.searchsorted(offsets, offset)))
