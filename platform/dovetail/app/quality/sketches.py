"""Sketches of the columns of rows: small, added up over the parts of a window, and read as profiles.

A sketch counts what a :class:`~dovetail.app.quality.profiles.Profile` counts, by the same bins. Two things are
approximate: quantiles are those of the bins, within a tenth of the value, and the number of different values above
:data:`SMALLEST` is estimated from the smallest hashes, within a quarter (two deviations).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.quality.profiles import QUANTILES, Profile, plain_columns
from dovetail.platform.archive.key_filters import hashes_of, mixed
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import some_rows, spread

__all__ = ["LEAST", "SMALLEST", "Sketched", "merged_sketches", "profiles_of_sketches", "sketches_by_window"]

#: Hashes that are kept of a column; up to so many different values are counted exactly.
SMALLEST = 64
#: Rows of a window that are looked at, if there are as many.
LEAST = 100
#: Values of a category that are counted by themselves, in a part.
_VALUES = 1_000
_NAN, _INFINITE, _ZERO, _STEPS, _MIDDLE = 100_001, 100_000, 1e-12, 4, 400

_SKETCH = pa.schema(
    [
        ("column", pa.string()), ("number", pa.bool_()), ("rows", pa.int64()), ("nulls", pa.int64()),
        ("low", pa.float64()), ("high", pa.float64()), ("bins", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int64())), ("hashes", pa.list_(pa.uint64())),
    ]
)  # fmt: skip


class Sketched(NamedTuple):
    """The rows of one window in a part: how many there are, the newest time (µs), and the sketch of some of them."""

    window_us: int
    rows: int
    newest_us: int
    sketch: bytes


def sketches_by_window(
    table: pa.Table, columns: Sequence[str], time_column: str, *, window_us: int, most_rows: int
) -> list[Sketched]:
    """The sketches of ``columns`` of ``table``, by window.

    ``most_rows`` rows are looked at, each window's share of them and :data:`LEAST` at the least.
    """
    times = table.column(time_column).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    starts = times // window_us * window_us
    there = [name for name in columns if name in {*spread(table.slice(0, 0)).column_names}]
    found = []
    for start in np.unique(starts).tolist():
        mine = np.flatnonzero(starts == start)
        most = max(LEAST, most_rows * len(mine) // len(starts))
        looked = mine[:: -(-len(mine) // most)]
        rows = plain_columns(spread(some_rows(table, looked)).select(there))
        lines = [_line(name, rows.column(name)) for name in there]
        found.append(Sketched(start, len(mine), int(times[mine].max()), _written(lines)))
    return found


def profiles_of_sketches(dataset: str, start_us: int, sketches: Sequence[bytes]) -> list[Profile]:
    """The profiles of the columns of a window, of all its parts together."""
    return [_profile(dataset, start_us, line) for line in _together(sketches)]


def merged_sketches(one: bytes, other: bytes) -> bytes:
    """The sketch of the rows of both, of which ``other`` are the later ones."""
    return _written(_together([one, other]))


def _written(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return wire.encode(pa.Table.from_pylist(list(lines), schema=_SKETCH))


def _together(sketches: Sequence[bytes]) -> list[dict[str, Any]]:
    """A line for each column, added up. A column that was declared otherwise meanwhile begins anew."""
    found: dict[str, dict[str, Any]] = {}
    for sketch in sketches:
        rows = wire.rows_of(sketch)
        for line in rows.to_pylist() if rows is not None else ():
            before = found.get(line["column"])
            found[line["column"]] = line if before is None or before["number"] != line["number"] else _sum(before, line)
    return list(found.values())


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for line in (one, other):
        counts.update(dict(zip(line["bins"], line["counts"], strict=True)))
    often = counts.most_common(_VALUES)
    lows, highs = ([line[end] for line in (one, other) if line[end] is not None] for end in ("low", "high"))
    return {
        "column": one["column"], "number": one["number"], "rows": one["rows"] + other["rows"],
        "nulls": one["nulls"] + other["nulls"], "low": min(lows, default=None), "high": max(highs, default=None),
        "bins": [value for value, _ in often], "counts": [count for _, count in often],
        "hashes": sorted({*one["hashes"], *other["hashes"]})[:SMALLEST],
    }  # fmt: skip


def _line(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    type_ = column.type
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    line: dict[str, Any] = {
        "column": name, "number": number, "rows": len(column), "nulls": column.null_count, "low": None, "high": None,
    }  # fmt: skip
    known = column.drop_null()
    if number:
        values = np.asarray(known.cast(pa.float64()).to_numpy(), dtype=np.float64)
        finite = values[np.isfinite(values)]
        if len(finite):
            line |= {"low": float(finite.min()), "high": float(finite.max())}
        bins, counts = np.unique(_bins(values), return_counts=True)
        different = mixed(np.unique(values).view(np.uint64))
        return line | {"bins": bins.astype(str).tolist(), "counts": counts.tolist(), "hashes": _smallest(different)}
    counted = pc.value_counts(known.cast(pa.string()).combine_chunks())
    texts, counts = counted.field("values"), counted.field("counts").to_numpy()
    often = np.argsort(-counts, kind="stable")[:_VALUES]
    names = texts.take(pa.array(often)).to_pylist()
    return line | {"bins": names, "counts": counts[often].tolist(), "hashes": _smallest(hashes_of(texts))}


def _bins(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each number, as ``profiles.py`` has them: its sign, and its size by quarters of a factor of two."""
    sizes = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.sign(values) * (_MIDDLE + np.floor(_STEPS * np.log2(sizes)))
    steps = np.where(sizes < _ZERO, 0, steps)
    steps = np.where(np.isinf(values), _INFINITE * np.sign(values), steps)
    return np.where(np.isnan(values), _NAN, steps).astype(np.int64)


def _smallest(hashes: npt.NDArray[np.uint64]) -> list[int]:
    kept: list[int] = np.sort(np.unique(hashes))[:SMALLEST].tolist()
    return kept


def _profile(dataset: str, start_us: int, line: Mapping[str, Any]) -> Profile:
    number, rows, nulls = line["number"], line["rows"], line["nulls"]
    values = [int(value) for value in line["bins"]] if number else line["bins"]
    histogram: dict[str | int | None, int] = dict(zip(values, line["counts"], strict=True))
    if nulls:
        histogram[None] = nulls
    hashes, low, high = line["hashes"], line["low"], line["high"]
    distinct = len(hashes) if len(hashes) < SMALLEST else int((SMALLEST - 1) / (max(hashes) / 2**64))
    return Profile(
        dataset, line["column"], "number" if number else "category", start_us, rows, nulls / rows, min(distinct, rows),
        low, high, _quantiles(histogram, low, high) if number else None, histogram,
    )  # fmt: skip


def _quantiles(
    histogram: Mapping[str | int | None, int], low: float | None, high: float | None
) -> tuple[float, ...] | None:
    """The quantiles of finite numbers, each in the middle of its bin."""
    if low is None or high is None:
        return None
    bins = sorted((each, count) for each, count in histogram.items() if isinstance(each, int) and abs(each) < _INFINITE)
    values = np.array([_middle(each) for each, _ in bins])
    upto = np.cumsum([count for _, count in bins])
    at = np.searchsorted(upto, np.array(QUANTILES) * upto[-1])
    return tuple(np.clip(values[np.minimum(at, len(values) - 1)], low, high).tolist())


def _middle(each: int) -> float:
    return 0.0 if each == 0 else float(np.sign(each) * 2.0 ** ((abs(each) - _MIDDLE + 0.5) / _STEPS))
