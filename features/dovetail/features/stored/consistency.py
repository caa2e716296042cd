"""Served against recomputed: every value of every snapshot, bit for bit.

A snapshot says which positions its values included. Recomputing with just those rows visible (``as_served``) must give
the same bits; a difference is a bug. Recomputing with everything visible that had *happened* by then (``event_time``)
may differ where the log itself was late, and such differences are counted as late, not as mismatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Consistency", "FeatureConsistency", "Mismatch", "compare", "equal_bits", "merged"]

_WORST = 5


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One value that differs: where, what was served, what the recomputation says, and SQL that computes it by hand.

    ``distance`` orders mismatches: the difference of numbers, infinite where only one of the two is NULL or NaN and for
    everything that is not a number. ``request`` is the request's row, of which the SQL is written in the end. Where
    ``row_of`` names a stream, it is what a row of that was enriched with, ``request_id`` is the row's place in it and
    ``item_id`` its key in the re-keyed stream.
    """

    request_id: str
    item_id: str
    request_time: str
    served: str
    recomputed: str
    distance: float = math.inf
    sql: str = ""
    row_of: str = ""
    request: pa.Table | None = field(default=None, repr=False, compare=False)

    def written(self, write: Callable[[pa.Table], str]) -> Mismatch:
        """With its ``sql``, which ``write`` makes of the request's row: only for what is shown in the end."""
        return self if self.request is None else replace(self, sql=write(self.request), request=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        shown = {
            name: getattr(self, name) for name in ("request_id", "item_id", "request_time", "served", "recomputed")
        }
        of = {"row_of": self.row_of} if self.row_of else {}
        return {**shown, **of, "distance": str(self.distance), "sql": self.sql}

    @property
    def where(self) -> str:
        """The request and item, or the row, that has the value."""
        if self.row_of:
            return f"row {self.request_id} (partition/offset/row) of {self.row_of}, key {self.item_id}"
        return f"request {self.request_id}, item {self.item_id}"


@dataclass(frozen=True, slots=True)
class FeatureConsistency:
    """One feature: values compared, mismatched, and how many of the equal ones late rows would have changed."""

    feature: str
    compared: int
    mismatched: int
    late: int
    examples: Sequence[Mismatch] = ()

    @property
    def equal(self) -> int:
        """Values that are what was served, to the bit."""
        return self.compared - self.mismatched


@dataclass(frozen=True, slots=True)
class Consistency:
    """The verdict over all features."""

    features: Sequence[FeatureConsistency] = field(default_factory=tuple)

    @property
    def compared(self) -> int:
        """Values compared."""
        return sum(feature.compared for feature in self.features)

    @property
    def mismatched(self) -> int:
        """Values that differ from what was served; must be 0."""
        return sum(feature.mismatched for feature in self.features)

    @property
    def late(self) -> int:
        """Values that were right when served and would be others had every row arrived in time."""
        return sum(feature.late for feature in self.features)

    def written(self, write: Callable[[str, pa.Table], str]) -> Consistency:
        """With the SQL of every example, which ``write`` makes of a feature's name and a request's row."""
        features = [
            replace(f, examples=[example.written(partial(write, f.feature)) for example in f.examples])
            for f in self.features
        ]
        return Consistency(tuple(features))

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "compared": self.compared,
            "equal": self.compared - self.mismatched,
            "mismatched": self.mismatched,
            "late": self.late,
            "features": [
                {
                    "feature": f.feature,
                    "compared": f.compared,
                    "equal": f.equal,
                    "mismatched": f.mismatched,
                    "late": f.late,
                    "examples": [example.to_json() for example in f.examples],
                }
                for f in self.features
            ],
        }


def merged(parts: Iterable[Consistency]) -> Consistency:
    """The verdict over several parts of the rows: sums, and the worst examples of all."""
    found: dict[str, FeatureConsistency] = {}
    for part in parts:
        for f in part.features:
            before = found.get(f.feature, FeatureConsistency(f.feature, 0, 0, 0))
            examples = sorted([*before.examples, *f.examples], key=lambda e: -e.distance)[:_WORST]
            found[f.feature] = FeatureConsistency(
                f.feature,
                before.compared + f.compared,
                before.mismatched + f.mismatched,
                before.late + f.late,
                examples,
            )
    return Consistency(tuple(found.values()))


def equal_bits(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Row by row: both NULL, or the same value of the same type; floats by their bits (NaN = NaN, 0.0 ≠ -0.0).

    Lists and maps are the same when they have the same elements in the same order, structs when every member is.
    """
    if left.type != right.type:
        return np.zeros(len(left), dtype=np.bool_)
    return _equal(pa.concat_arrays(left.chunks or [pa.nulls(0, left.type)]),
                  pa.concat_arrays(right.chunks or [pa.nulls(0, right.type)]))  # fmt: skip


def _equal(left: pa.Array, right: pa.Array) -> npt.NDArray[np.bool_]:
    present, other = _flags(left.is_valid()), _flags(right.is_valid())
    same: npt.NDArray[np.bool_] = present == other
    rows = np.flatnonzero(present & other)
    if len(rows) < len(left):
        left, right = left.take(pa.array(rows)), right.take(pa.array(rows))
    same[rows] = _equal_values(left, right)
    return same


def _equal_values(left: pa.Array, right: pa.Array) -> npt.NDArray[np.bool_]:
    """Of arrays without NULLs."""
    type_ = left.type
    if pa.types.is_struct(type_):
        members = [_equal(*pair) for pair in zip(left.flatten(), right.flatten(), strict=True)]
        same = np.ones(len(left), dtype=np.bool_)
        for member in members:
            same &= member
        return same
    if pa.types.is_map(type_):
        listed = pa.list_(pa.struct([type_.key_field.with_nullable(True), type_.item_field]))
        left, right = left.cast(listed), right.cast(listed)
    if pa.types.is_list(left.type):
        return _equal_lists(left, right)
    if pa.types.is_floating(type_):
        bits = pa.int64() if type_ == pa.float64() else pa.int32()
        left, right = left.view(bits), right.view(bits)
    return _flags(pc.equal(left, right))


def _flags(array: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _equal_lists(left: pa.ListArray, right: pa.ListArray) -> npt.NDArray[np.bool_]:
    lengths, others = (np.asarray(side.value_lengths().to_numpy(zero_copy_only=False)) for side in (left, right))
    same: npt.NDArray[np.bool_] = lengths == others
    rows = np.flatnonzero(same & (lengths > 0))
    mine, theirs = (side.take(pa.array(rows)).flatten() for side in (left, right))
    if len(rows):
        starts = np.cumsum(lengths[rows]) - lengths[rows]
        same[rows] = np.logical_and.reduceat(_equal(mine, theirs), starts)
    return same


def compare(
    snapshots: pa.Table,
    as_served: pa.Table,
    event_time: pa.Table | None,
    features: Sequence[str],
    requests: pa.Table | None = None,
    *,
    keys: tuple[str, str, str] = ("request_id", "item_id", "request_time"),
) -> Consistency:
    """Compare the named columns of ``snapshots`` with both recomputations, row by row (same order, same length).

    Where ``event_time`` is None or the table ``as_served`` itself, no row was late. ``requests``, row by row, are those
    that the SQL of an example is made of (:meth:`Consistency.written`). ``keys`` are the columns of ``snapshots`` that
    say of an example which it is.
    """
    results = []
    ids = [snapshots.column(name).cast(pa.string()) for name in keys]
    for name in features:
        served, recomputed = snapshots.column(name), as_served.column(name)
        equal = equal_bits(served, recomputed)
        late = 0
        if event_time is not None and event_time is not as_served:
            late = int((equal & ~equal_bits(served, event_time.column(name))).sum())
        wrong = np.flatnonzero(~equal)
        worst = wrong[np.argsort(-_distances(served, recomputed, wrong), kind="stable")][:_WORST].tolist()
        examples = [
            Mismatch(
                ids[0][row].as_py(),
                ids[1][row].as_py(),
                ids[2][row].as_py(),
                repr(served[row].as_py()),
                repr(recomputed[row].as_py()),
                float(_distances(served, recomputed, np.array([row]))[0]),
                request=None if requests is None else requests.take([row]),
            )
            for row in worst
        ]
        results.append(FeatureConsistency(name, snapshots.num_rows, len(wrong), late, examples))
    return Consistency(tuple(results))


def _distances(
    served: pa.ChunkedArray, recomputed: pa.ChunkedArray, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """How far apart the values of these rows are; infinite where that is not a number."""
    if not all(_is_number(column.type) for column in (served, recomputed)):
        return np.full(len(rows), np.inf)
    left, right = (
        np.asarray(column.take(pa.array(rows)).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        for column in (served, recomputed)
    )
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.abs(left - right)
    return np.where(np.isnan(apart), np.inf, apart)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))
