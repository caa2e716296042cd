"""The states of the views that a re-keyed stream is enriched from, in the online store, beside what they include.

They are states of their own, of the rows that the re-keying agent has taken in: it may be behind the agents that keep
the views for requests, and a row's value must not know of later ones. A partition's states move in one commit, after
the rows made with them are published: what they include has been published, so that nothing is made of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa

from dovetail.features.at_events.streamed import TakenIn, ValuesAtEvents
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore, ViewCommit, scope_of

__all__ = ["KeptViews", "began_at", "kept_as"]

#: Among the sources of a stored progress: the first offset that the states know of.
_BEGAN = -1


def kept_as(rekeyed: str, view: str) -> str:
    """The name under which the online store keeps ``view`` for the agent that makes stream ``rekeyed``."""
    return f"{rekeyed}#{view}"


def began_at(store: OnlineStore, rekeyed: str, view: str) -> dict[int, int]:
    """The first offset of each partition that ``view`` has been kept from for stream ``rekeyed``."""
    found = store.progress(kept_as(rekeyed, view))
    return {partition: progress.sources.get(_BEGAN, 0) for partition, progress in found.items()}


class KeptViews:
    """The streaming views among ``rekeyed.enriched``, with their states in ``store``.

    ``marks`` are those that their states bear whichever way a column is declared wider, by view.
    """

    def __init__(self, rekeyed: Stream, store: OnlineStore, marks: Mapping[str, int]) -> None:
        self._rekeyed, self._store = rekeyed, store
        views = [view for view in rekeyed.enriched if isinstance(view, StreamView)]
        self._views = {
            view.name: ValuesAtEvents(replace(view, state_mark=marks.get(view.name, view.state_mark))) for view in views
        }
        self._progress: dict[int, Progress] = {}

    def warm(self) -> None:
        """Compile what :meth:`take_in` runs."""
        for view in self._views.values():
            view.warm()

    def resume(self) -> None:
        """Read what the stored states include."""
        first = next(iter(self._views), None)
        self._progress = {} if first is None else dict(self._store.progress(kept_as(self._rekeyed.name, first)))

    def included(self, partition: int) -> Progress:
        """The progress that the states include of a partition; ``sources`` are of a stream that is re-keyed itself.

        A store that went back to an older copy of itself includes less than has been published: then what is missing is
        taken in again, which gives what it gave.
        """
        found = self._progress.get(partition, Progress())
        return replace(found, sources={source: at for source, at in found.sources.items() if source != _BEGAN})

    def take_in(
        self, rows: pa.Table, partition: int, first_offset: int, next_offset: int, sources: Mapping[int, int]
    ) -> tuple[dict[str, pa.Table], Callable[[], None]]:
        """The views' columns for ``rows`` of a partition, in its order, none included before; and what commits them.

        The rows are those of the messages from ``first_offset`` to before ``next_offset``; ``sources`` is what they
        leave of a filter of repetitions.

        Raises:
            WireError, StateError: as :meth:`ValuesAtEvents.take_in`.
            StaleCommit: the states are of another moment, by another worker or a store that lost some: rows made with
                them must not be published.
        """
        before = self._progress.get(partition, Progress())
        watermark = NO_WATERMARK if before.watermark_us is None else before.watermark_us
        found, after = dict[str, TakenIn](), watermark
        for name, view in self._views.items():
            read = partial(self._store.read_partition, kept_as(self._rekeyed.name, name), partition)
            found[name] = view.take_in(rows, partition, watermark, read)
            after = found[name].watermark
            self._refuse_other(kept_as(self._rekeyed.name, name), partition, before.next_offset)
        began = before.sources.get(_BEGAN, first_offset)
        progress = Progress(
            next_offset, watermark_us=None if after == NO_WATERMARK else after, sources={**sources, _BEGAN: began}
        )

        def commit() -> None:
            commits = [
                ViewCommit(
                    kept_as(self._rekeyed.name, name),
                    before.next_offset,
                    progress,
                    taken.changed,
                    self._views[name].view.retention_us,
                )
                for name, taken in found.items()
            ]
            if commits:
                self._store.commit(partition, commits, [])
                self._progress[partition] = progress

        return {name: taken.values for name, taken in found.items()}, commit

    def _refuse_other(self, kept: str, partition: int, expected: int) -> None:
        """See that the states that have been read were those of a position: it is where it was when they were asked."""
        found = self._store.progress(kept).get(partition, Progress()).next_offset
        if found != expected:
            raise StaleCommit(scope_of(kept), partition, expected=expected, found=found)
