"""Events that a definition has no value for, found before they reach any state.

``sum(1000 // n)`` has no value at ``n = 0``: DuckDB raises, so the definition means nothing on a log that holds such an
event. One that reached the log must not stop the worker for good, nor be in the way of batch evaluation, so the intake
turns it away, as it does malformed messages: for every reader of the stream alike. What the views read of the rows is
evaluated to find out, and kept with them for the agent that folds them in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from dovetail.features.expressions.execute import PreparedColumns, StreamPreparer
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.platform.errors import WireError, reason_of
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.intake import Received, Vetted

__all__ = ["prepared_when_vetted", "vet_events"]


def vet_events(stream: Stream, views: Sequence[StreamView]) -> Callable[[pa.Table], Vetted]:
    """A vet for the intake of ``stream``: finds rows on which an expression of one of ``views`` fails.

    Views of streams that are re-keyed from it count: what they have no value for is turned away before it is re-keyed.
    Where those are enriched, it is after that, when there is all that they read.
    Those of the same objects are equal. What rows were vetted by is had again by :func:`prepared_when_vetted`.
    """
    return _Vetting(stream, tuple(views))


def prepared_when_vetted(received: Received, view: StreamView, branch: int) -> PreparedColumns | None:
    """The columns that a branch of ``view`` reads of all rows of ``received``, as :class:`StreamPreparer` gives them.

    None where the intake has not evaluated the view, or some row was turned away.
    """
    known, prepared = received.shared.get(_place(view, branch), (None, None))
    return prepared if known is view else None


class _Vetting:
    def __init__(self, stream: Stream, views: tuple[StreamView, ...]) -> None:
        self._of = (stream, *views)
        self._preparers = [
            (number, StreamPreparer(view, number))
            for view in views
            for number, branch in enumerate(view.reads)
            if stream.name == branch.stream.name
            or (stream.name == branch.stream.rekeyed_from and not branch.stream.enriched)
        ]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Vetting) or len(self._of) != len(other._of):
            return False
        return all(mine is theirs for mine, theirs in zip(self._of, other._of, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._of)))

    def __call__(self, events: pa.Table) -> Vetted:
        def prepare(rows: Sequence[int]) -> dict[object, tuple[StreamView, PreparedColumns]]:
            part = events.slice(rows[0], len(rows))
            return {
                _place(preparer.view, branch): (preparer.view, preparer.prepare(part))
                for branch, preparer in self._preparers
            }

        made, failing = halved(range(events.num_rows), prepare)
        refused = {row: str(error) if isinstance(error, WireError) else reason_of(error) for row, error in failing}
        return Vetted(refused, made[0][1] if made and not refused else {})


def _place(view: StreamView, branch: int) -> object:
    """The place of what a branch of ``view`` reads, by identity: comparing definitions takes longer than a poll."""
    return PreparedColumns, id(view), branch
