"""The state of a streaming view per key: raw rows, and per hop step one list of partial aggregates.

Two kinds of windows, two kinds of memory. A plain ``RANGE`` window slides with every microsecond, so its rows are
kept. A ``hop`` window has a tail rounded to a bucket, so whole buckets suffice there, and rows are only kept for the
head: from the *collapse boundary* ``bucket_start(watermark - allowed_lateness)`` on. Of a window that ends before the
request, the head is that much longer. Windows of one step and one end share a list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dovetail.features.plan.aggregates import DEVIATIONS, FOLDED, refusal
from dovetail.features.plan.definitions import Aggregate, StreamView, Window
from dovetail.features.stream.keys import has_canonical_bytes

__all__ = [
    "COUNT",
    "MAX",
    "MIN",
    "SQUARES",
    "SUM",
    "TIME_LIMIT_US",
    "UNBOUNDED_STEP",
    "Layout",
    "Op",
    "Step",
    "is_folded",
    "step_of",
    "supported",
]

#: Event and request times lie within ± this (73,000 years around 1970), so that no window bound overflows int64.
TIME_LIMIT_US = 1 << 61
_DURATION_LIMIT_US = 1 << 60
_MAX_INPUTS = 63

#: Kinds of operation; COUNT, MIN and MAX take one word, SUM and SQUARES (of x², x below 2**47) two: lo, hi.
COUNT, SUM, MIN, MAX, SQUARES = 0, 1, 2, 3, 4
#: The step of unbounded windows: one partial for everything below ``watermark - allowed_lateness``.
UNBOUNDED_STEP = 0

_FORMAT = 1


class Op(NamedTuple):
    """One partial aggregate: ``kind`` over rows whose mask has ``bit``, of value column ``column`` (0 for COUNT)."""

    kind: int
    bit: int
    column: int

    @property
    def words(self) -> int:
        return 2 if self.kind in (SUM, SQUARES) else 1


@dataclass(frozen=True, slots=True)
class Step:
    """One list of partials: bucket width, the largest window over it, what each bucket holds, and how long before a
    request all its windows end."""

    step_us: int
    reach_us: int
    ops: tuple[Op, ...]
    end_us: int = 0

    @property
    def words(self) -> int:
        """Words per partial: the bucket's start and the ops."""
        return 1 + sum(op.words for op in self.ops)

    def word_of(self, op: Op) -> int:
        """Index of ``op``'s first word in a partial; the words before belong to the ops before."""
        return sum(other.words for other in self.ops[: self.ops.index(op)])


def supported(view: StreamView) -> list[str]:
    """Why the stream engine cannot keep ``view``; empty when it can. Each reason says what to write instead."""
    reasons = []
    if len(view.inputs) > _MAX_INPUTS:
        reasons.append(
            f"{len(view.inputs)} different arguments and filters, the engine keeps {_MAX_INPUTS} per view; "
            "split the view in two"
        )
    durations = [("allowed_lateness", view.stream.allowed_lateness_us, 0)]
    for window in view.windows:
        durations.append((f"window {window.name}", window.size_us, 0))
        durations.append((f"the end of window {window.name}", window.end_us, 0))
        if window.step_us is not None:
            durations.append((f"step of window {window.name}", window.step_us, 1))
    reasons += [
        f"{what} is {us} us; use a duration from {least} us to {_DURATION_LIMIT_US} us"
        for what, us, least in durations
        if not least <= us <= _DURATION_LIMIT_US
    ]
    for column, type_ in zip(view.entity, view.entity_types, strict=True):
        if not has_canonical_bytes(type_):
            reasons.append(
                f"entity column {column} is {type_}, which has no canonical bytes; "
                "partition by integers, strings, dates, timestamps, booleans or decimals"
            )
    for aggregate in view.aggregates:
        argument = view.inputs[aggregate.input].type
        why = refusal(aggregate.function, argument, None if aggregate.by is None else view.inputs[aggregate.by].type)
        if why is not None:
            reasons.append(f"{aggregate.output}: {aggregate.function} over {argument}{why.why}; {why.remedy}")
    return reasons


def step_of(window: Window) -> int | None:
    """The step of the list of partials that serves ``window``; None when rows are kept for all of it."""
    return UNBOUNDED_STEP if window.unbounded else window.step_us


def is_folded(view: StreamView, aggregate: Aggregate) -> bool:
    """Whether partials of fixed width serve: an associative fold of words, over a window that a duration or nothing
    bounds."""
    function, argument = aggregate.function, view.inputs[aggregate.input].type
    if view.windows[aggregate.window].rows is not None or function not in FOLDED:
        return False
    return function not in ("min", "max") or not pa.types.is_string(argument)


class Layout:
    """The words a view's state consists of, and the arrays that tell the kernels so.

    ``arguments`` and ``filters`` are the distinct SQL expressions that must be evaluated for each event, in the order
    in which :func:`~dovetail.features.stream.prepare.prepare_rows` takes them; ``value_arguments`` are the arguments
    whose values are kept, one per column of ``PreparedRows.values`` (``count`` needs no values).

    Raises:
        ValueError: the view is not :func:`supported`; the definitions loader has refused it with file and line.
    """

    def __init__(self, view: StreamView) -> None:
        reasons = supported(view)
        if reasons:
            raise ValueError(f"view {view.name} ({view.file}:{view.line}): {'; '.join(reasons)}")
        inputs = view.inputs
        self.view = view
        self.arguments = tuple(dict.fromkeys(i.argument for i in inputs if i.argument is not None))
        self.filters = tuple(dict.fromkeys(i.filter for i in inputs if i.filter is not None))
        self.argument_of_input = tuple(None if i.argument is None else self.arguments.index(i.argument) for i in inputs)
        self.filter_of_input = tuple(None if i.filter is None else self.filters.index(i.filter) for i in inputs)
        #: The aggregates kept as rows and partials; ``collections/`` keeps the others.
        self.folded = tuple(a for a in view.aggregates if is_folded(view, a))
        used = {a.window for a in self.folded}
        self.windows = tuple(w for i, w in enumerate(view.windows) if i in used)
        wanted = {self.argument_of_input[a.input] for a in self.folded if a.function != "count"}
        self.value_arguments = tuple(i for i in range(len(self.arguments)) if i in wanted)
        self.lateness_us = view.stream.allowed_lateness_us
        #: Largest plain window, or None when every window hops.
        self.plain_reach_us = max((w.size_us for w in self.windows if step_of(w) is None), default=None)
        self.steps = self._steps()
        self.row_words = 2 + len(self.value_arguments)
        self.fingerprint = self._fingerprint()

    def ops_of_window(self, window: int) -> tuple[Op, ...]:
        """The operations that ``window`` needs: a count for every input it aggregates, and the sums, minima, maxima."""
        return self._ops(a for a in self.folded if a.window == window)

    def ops_of(self, aggregate: Aggregate) -> tuple[Op, ...]:
        """The operations one aggregate is made from; the first is always the count."""
        count = Op(COUNT, aggregate.input, 0)
        if aggregate.function == "count":
            return (count,)
        kind = {"min": MIN, "max": MAX}.get(aggregate.function, SUM)
        argument = self.argument_of_input[aggregate.input]
        column = [i == argument for i in self.value_arguments].index(True)
        squares = (Op(SQUARES, aggregate.input, column),) if aggregate.function in DEVIATIONS else ()
        return count, Op(kind, aggregate.input, column), *squares

    def _ops(self, aggregates: Iterable[Aggregate]) -> tuple[Op, ...]:
        return tuple(sorted({op for a in aggregates for op in self.ops_of(a)}, key=lambda op: (op.bit, op.kind)))

    def _steps(self) -> tuple[Step, ...]:
        steps = []
        lists = {(step, w.end_us) for w in self.windows if (step := step_of(w)) is not None}
        for step, end in sorted(lists):
            members = [i for i, w in enumerate(self.view.windows) if (step_of(w), w.end_us) == (step, end)]
            ops = self._ops([a for a in self.folded if a.window in members])
            steps.append(Step(step, max(self.view.windows[i].size_us for i in members), ops, end))
        return tuple(steps)

    def _fingerprint(self) -> int:
        """64 bits of everything that decides what the words mean; names of outputs and of the view do not."""
        view = self.view
        if view.state_mark is not None:
            return view.state_mark
        meaning = (
            _FORMAT,
            view.stream.name,
            view.stream.event_time,
            [(c, str(t)) for c, t in zip(view.entity, view.entity_types, strict=True)],
            view.where,
            [(i.argument, i.filter, str(i.type)) for i in view.inputs],
            self.value_arguments,
            self.lateness_us,
            self.plain_reach_us,
            [(s.step_us, s.reach_us, [tuple(op) for op in s.ops]) for s in self.steps],
        )
        if view.branches:
            cleaned = [
                (b.stream.name, b.stream.event_time, [(c.columns, c.where) for c in b.cleanings]) for b in view.branches
            ]
            meaning = (*meaning, cleaned)  # type: ignore[assignment]
        if ends := [(step.step_us, step.end_us) for step in self.steps if step.end_us]:
            meaning = (*meaning, ends)  # type: ignore[assignment]
        digest = hashlib.blake2b(repr(meaning).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)
