"""Served against recomputed: every value of every snapshot, bit for bit.

A snapshot says which positions its values included. Recomputing with just those rows visible (``as_served``) must give
the same bits; a difference is a bug. Recomputing with everything visible that had *happened* by then (``event_time``)
may differ where the log itself was late, and such differences are counted as late, not as mismatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    everything that is not a number.
    """

    request_id: str
    item_id: str
    request_time: str
    served: str
    recomputed: str
    distance: float = math.inf
    sql: str = ""


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
                    "examples": [asdict(e) | {"distance": str(e.distance)} for e in f.examples],
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
    """Row by row: both NULL, or the same value of the same type; floats by their bits (NaN = NaN, 0.0 ≠ -0.0)."""
    if left.type != right.type:
        return np.zeros(len(left), dtype=np.bool_)
    if pa.types.is_floating(left.type):
        bits = pa.int64() if left.type == pa.float64() else pa.int32()
        left, right = (pa.chunked_array([column.combine_chunks().view(bits)]) for column in (left, right))
    if pa.types.is_nested(left.type):
        return np.array([a == b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True)], dtype=np.bool_)
    same = pc.fill_null(pc.equal(left, right), pa.scalar(value=False))
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    either_null = pc.or_(pc.is_null(left), pc.is_null(right))
    result = pc.or_(both_null, pc.and_(same, pc.invert(either_null)))
    return np.asarray(result.to_numpy(zero_copy_only=False) if isinstance(result, pa.Array) else result.to_numpy())


def compare(
    snapshots: pa.Table,
    as_served: pa.Table,
    event_time: pa.Table | None,
    features: Sequence[str],
    reproduce: Callable[[str, int], str] | None = None,
) -> Consistency:
    """Compare the named columns of ``snapshots`` with both recomputations, row by row (same order, same length).

    ``reproduce(feature, row)`` gives the SQL of an example.
    """
    results = []
    keys: Mapping[str, pa.ChunkedArray] = {
        name: snapshots.column(name).cast(pa.string()) for name in ("request_id", "item_id", "request_time")
    }
    for name in features:
        served, recomputed = snapshots.column(name), as_served.column(name)
        equal = equal_bits(served, recomputed)
        late = 0
        if event_time is not None:
            late = int((equal & ~equal_bits(served, event_time.column(name))).sum())
        wrong = np.flatnonzero(~equal)
        worst = wrong[np.argsort(-_distances(served, recomputed, wrong), kind="stable")][:_WORST].tolist()
        examples = [
            Mismatch(
                keys["request_id"][row].as_py(),
                keys["item_id"][row].as_py(),
                keys["request_time"][row].as_py(),
                repr(served[row].as_py()),
                repr(recomputed[row].as_py()),
                float(_distances(served, recomputed, np.array([row]))[0]),
                reproduce(name, row) if reproduce is not None else "",
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
