"""Events that a definition has no value for, found before they reach any state.

``sum(1000 // n)`` has no value at ``n = 0``: DuckDB raises, so the definition means nothing on a log that holds such an
event. One that reached the log must not stop the worker for good, nor be in the way of batch evaluation, so the intake
turns it away, as it does malformed messages: for every reader of the stream alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.platform.errors import WireError
from dovetail.platform.rows.intake import Vet

__all__ = ["vet_events"]


def vet_events(stream: Stream, views: Sequence[StreamView]) -> Vet:
    """A vet for the intake of ``stream``: finds rows on which an expression of one of ``views`` fails.

    Views of streams that are re-keyed from it count: what they have no value for is turned away before it is re-keyed.
    Those of the same objects are equal.
    """
    return _Vetting(stream, tuple(views))


class _Vetting:
    def __init__(self, stream: Stream, views: tuple[StreamView, ...]) -> None:
        self._of = (stream, *views)
        self._preparers = [
            StreamPreparer(view, number)
            for view in views
            for number, branch in enumerate(view.reads)
            if stream.name in (branch.stream.name, branch.stream.rekeyed_from)
        ]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Vetting) or len(self._of) != len(other._of):
            return False
        return all(mine is theirs for mine, theirs in zip(self._of, other._of, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._of)))

    def __call__(self, events: pa.Table) -> dict[int, str]:
        return self._isolate(events, 0, self._reason(events))

    def _reason(self, events: pa.Table) -> str | None:
        for preparer in self._preparers:
            try:
                preparer.prepare(events)
            except WireError as error:
                return str(error)
        return None

    def _isolate(self, events: pa.Table, first: int, why: str | None) -> dict[int, str]:
        """Halve until what fails is a single row."""
        if why is None or events.num_rows == 0:
            return {}
        if events.num_rows == 1:
            return {first: why}
        middle = events.num_rows // 2
        left, right = events.slice(0, middle), events.slice(middle)
        return self._isolate(left, first, self._reason(left)) | self._isolate(
            right, first + middle, self._reason(right)
        )
