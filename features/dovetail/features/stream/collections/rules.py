"""Entries are kept for aggregates that pick, list or count *values*, and leave by a rule.

Partials of fixed width cannot hold a string, a list or a set. So such an aggregate keeps entries, one per event, and
drops an entry as soon as it can prove that no request still answerable needs it. Every request is at or after
``watermark - allowed_lateness``, and every window ends at or after ``floor``: that time, or where windows end before
the request, as long before it. An entry d *covers* an entry r when both are at or before ``floor`` and d is in every
window that r is in: d is later, or in the same bucket of a hop. Then:

========== ===================================================== ==================================================
rule       r leaves when                                         what stays per key, besides entries after ``floor``
========== ===================================================== ==================================================
BEST       k entries cover it and win against it                 ``last``: k; ``arg_max``: those still to win
LATEST     a later entry of its value covers it, or k values do  one per distinct value, at most k
FIRST      an earlier entry of its value is in its bucket        one per value and bucket
GROUP      never: entries of one value and bucket become one     one per value and bucket, with count and fold
ROWS       n later entries are at or before ``floor``            n
ALL        never                                                 all
========== ===================================================== ==================================================

and always when it is before the longest window. The rules are transitive, so what stays is a function of the set of
rows and of the watermark: neither order of arrival nor the cut into polls leaves a trace.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from dovetail.features.kernels.words import Words
from dovetail.features.plan.aggregates import BY_KEY, MAX_LISTED, SHAPES
from dovetail.features.plan.definitions import TIME_BUCKET_ORIGIN_US, Aggregate, AggregateFunction, StreamView
from dovetail.features.stream.layout import UNBOUNDED_STEP, Layout, is_folded, step_of

__all__ = [
    "ADD",
    "ALL",
    "BEST",
    "FIRST",
    "GREATEST",
    "GROUP",
    "LATEST",
    "LEAST",
    "PLAIN_STEP",
    "ROWS",
    "Collection",
    "CollectionLayout",
    "fold_of",
    "lowest_kept",
]

ALL, BEST, LATEST, FIRST, GROUP, ROWS = 0, 1, 2, 3, 4, 5
#: How GROUP folds what entries of one value carry: their sum, in 128 bits, or the least or greatest.
ADD, LEAST, GREATEST = 0, 1, 2
#: The step of windows that begin at any microsecond.
PLAIN_STEP = -1
#: Stands for "no limit" of listed values.
_UNLIMITED = 1 << 31


@dataclass(frozen=True, slots=True)
class Collection:
    """Entries of one kind.

    Attributes:
        rule: how entries leave.
        input, by: indices of the inputs whose values an entry holds: the value; what orders it, or is added up.
        nulls: entries whose value is NULL are kept, too.
        descending: for BEST, the greatest wins, and of equals the latest; else the least, and of equals the earliest.
        step: of its windows: PLAIN_STEP, UNBOUNDED_STEP or the hop's step.
        k: for BEST and LATEST how many, for ROWS how many rows.
        reach_us: the longest window; not used where the windows have no lower bound in time.
        end_us: how long before a request its windows end; in the fingerprint only where they do.
        each: the values are the elements of the input's lists; in the fingerprint only where they are.
        fold: for GROUP, how entries are folded; in the fingerprint only where it is not ADD.
    """

    rule: int
    input: int
    by: int | None
    nulls: bool
    descending: bool
    step: int
    k: int
    reach_us: int
    end_us: int = field(default=0, repr=False)
    fold: int = field(default=ADD, repr=False)
    each: bool = field(default=False, repr=False)

    @property
    def summed(self) -> bool:
        """Whether entries carry a count and a sum."""
        return self.rule == GROUP

    @property
    def compares(self) -> bool:
        """Whether it matters which entries have the same value, or the greater one."""
        return self.rule != BEST or self.by == self.input

    @property
    def columns(self) -> int:
        """Words per entry: time, position, flags, value; then count and 128-bit sum, or what orders it."""
        return 4 + (3 if self.summed else 1)


class CollectionLayout:
    """The collections of a view, which aggregate reads which, and the state's fingerprint."""

    def __init__(self, view: StreamView, layout: Layout) -> None:
        self.view = view
        self.aggregates = tuple(a for a in view.aggregates if not is_folded(view, a))
        merged: dict[tuple[object, ...], Collection] = {}
        self._key_of: dict[str, tuple[object, ...]] = {}
        for aggregate in self.aggregates:
            one = _collection(view, aggregate)
            key = (one.rule, one.input, one.by, one.nulls, one.descending, one.step, one.end_us, one.fold, one.each)
            other = merged.get(key, one)
            merged[key] = replace(one, k=max(one.k, other.k), reach_us=max(one.reach_us, other.reach_us))
            self._key_of[aggregate.output] = key
        self.collections = tuple(merged.values())
        #: The collections whose older entries stand in chunks (``chunks.py``), by index: long lists and frames.
        self.chunked = tuple(
            index for index, one in enumerate(self.collections) if one.rule in (BEST, ROWS) and one.k > MAX_LISTED
        )
        self._keys = list(merged)
        self.fingerprint = layout.fingerprint
        if self.collections:
            meaning = (layout.fingerprint, bool(layout.folded), self.collections)
            for later in ("end_us", "fold", "each"):  # what collections of older states did not have
                if any(found := [getattr(collection, later) for collection in self.collections]):
                    meaning = (*meaning, later, found)  # type: ignore[assignment]
            digest = hashlib.blake2b(repr(meaning).encode(), digest_size=8).digest()
            self.fingerprint = int.from_bytes(digest, "little", signed=True)

    def index_of(self, aggregate: Aggregate) -> int:
        """The index in ``collections`` of the one that the aggregate reads."""
        return self._keys.index(self._key_of[aggregate.output])

    def value_type(self, collection: Collection) -> pa.DataType:
        """The Arrow type of the entries' values."""
        type_ = self.view.inputs[collection.input].type
        return type_.value_type if collection.each else type_

    def text_type(self, collection: Collection) -> pa.DataType | None:
        """The type of values that are kept beside the entries: texts, and structs as bytes; None of all others."""
        type_ = self.value_type(collection)
        if pa.types.is_struct(type_):
            return pa.large_binary()
        return pa.large_string() if pa.types.is_string(type_) else None

    @property
    def ordered(self) -> bool:
        """Whether rows must come with their positions."""
        return bool(self.collections)


def fold_of(function: AggregateFunction) -> int:
    """How the entries of one value are folded into the function's."""
    return {"least_by": LEAST, "greatest_by": GREATEST}.get(function, ADD)


def _collection(view: StreamView, aggregate: Aggregate) -> Collection:
    window = view.windows[aggregate.window]
    step = step_of(window)
    function, by, k = aggregate.function, aggregate.by, aggregate.k or 1
    if window.rows is not None:
        # Rows are counted before FILTER, so every row is an entry, with a flag whether it counts.
        return Collection(
            ROWS, aggregate.input, by, aggregate.nulls, False, UNBOUNDED_STEP, window.rows, 0, window.end_us
        )
    rule, descending = BEST, function in ("last", "arg_max", "max", "nth_newest", "newest")
    if function in ("count_distinct", "last_distinct"):
        rule, k = LATEST, k if function == "last_distinct" else _UNLIMITED
    elif function == "first_distinct":
        rule, k = FIRST, _UNLIMITED
    elif function in ("histogram", "top_k", "histogram_each", *SHAPES, *BY_KEY):
        rule, k = GROUP, _UNLIMITED
    elif function in ("min", "max"):
        by = aggregate.input
    return Collection(
        rule,
        aggregate.input,
        by,
        aggregate.nulls,
        descending,
        PLAIN_STEP if step is None else step,
        k,
        window.size_us,
        window.end_us,
        fold_of(function),
        function == "histogram_each",
    )


def lowest_kept(collection: Collection, floors: Words) -> Words:
    """First event time that a request at or after each floor can still see."""
    if collection.step == UNBOUNDED_STEP:
        return np.full(len(floors), np.iinfo(np.int64).min)
    low = floors - collection.reach_us
    if collection.step == PLAIN_STEP:
        return low
    origin = TIME_BUCKET_ORIGIN_US

    return (low - origin) // collection.step * collection.step + origin
