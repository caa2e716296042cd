"""Profiles of the columns of a window of rows, computed in DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.duck.hermetic import hermetic_connection
from dovetail.platform.duck.quoting import identifier

__all__ = ["QUANTILES", "Profile", "plain_columns", "profiles_of"]

#: The quantiles of a number that are told.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Values of a category that are counted by themselves, in a window.
_VALUES = 1_000
#: The bin of a number: its sign, and its size in steps of a quarter of a factor of two; zero and what is near it is 0.
_BIN = """CASE WHEN {x} IS NULL THEN NULL WHEN isnan({x}) THEN 100001 WHEN isinf({x}) THEN 100000 * sign({x})
    WHEN abs({x}) < 1e-12 THEN 0 ELSE sign({x}) * (400 + floor(4 * log2(abs({x})))) END"""


@dataclass(frozen=True, slots=True)
class Profile:
    """A column in one window. Of lists and maps it is their length, of structs whether they are there.

    ``histogram`` counts values: of a number by bins of its size, which ascend, of a category by value; NULLs are under
    None. ``low``, ``high`` and ``quantiles`` are of numbers alone, None without one. All are of the rows looked at.
    """

    dataset: str
    column: str
    kind: Literal["number", "category"]
    start_us: int
    rows: int
    null_share: float
    distinct: int
    low: float | None
    high: float | None
    quantiles: tuple[float, ...] | None
    histogram: Mapping[str | int | None, int]

    @property
    def largest(self) -> float | None:
        """The largest value, sign aside; None without a number."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


def plain_columns(table: pa.Table) -> pa.Table:
    """``table`` with the length of each list or map in its place, and of each struct whether it is there."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        type_ = column.type
        if pa.types.is_list(type_) or pa.types.is_large_list(type_):
            columns[name] = pc.list_value_length(column)
        elif pa.types.is_map(type_):
            columns[name] = pc.list_value_length(
                column.cast(pa.list_(pa.struct([("key", type_.key_type), ("value", type_.item_type)])))
            )
        elif pa.types.is_struct(type_):
            columns[name] = pc.if_else(column.is_valid(), True, None)
        else:
            columns[name] = column
    return pa.table(columns)


def profiles_of(dataset: str, columns: Sequence[str], rows: pa.Table, start_us: int) -> list[Profile]:
    """The profiles of ``columns`` of ``rows``, plain ones; times are told as categories, by their NULLs and number.

    ``rows`` of no row gives no profile.
    """
    if not rows.num_rows or not columns:
        return []
    connection = hermetic_connection()
    try:
        connection.register("profiled", rows.select(list(columns)))
        return [_profile(connection, dataset, name, rows, start_us) for name in columns]
    finally:
        connection.unregister("profiled")
        connection.close()


def _profile(connection: Any, dataset: str, name: str, rows: pa.Table, start_us: int) -> Profile:
    type_ = rows.schema.field(name).type
    quoted = identifier(name)
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    x = f"{quoted}::DOUBLE"
    finite = f"CASE WHEN isfinite({x}) THEN {x} END"
    told = f"min({finite}), max({finite}), quantile_cont({finite}, {list(QUANTILES)})" if number else "NULL, NULL, NULL"
    ((distinct, low, high, quantiles),) = connection.sql(
        f"SELECT approx_count_distinct({quoted}), {told} FROM profiled"
    ).fetchall()
    binned = f"({_BIN.format(x=x)})::INTEGER" if number else f"{quoted}::VARCHAR"
    counted = connection.sql(
        f"SELECT {binned} AS bin, count(*) FROM profiled GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_VALUES + 1}"
    ).fetchall()
    nulls = rows.column(name).null_count
    return Profile(
        dataset, name, "number" if number else "category", start_us, rows.num_rows, nulls / rows.num_rows,
        int(distinct), low, high, None if quantiles is None else tuple(quantiles), dict(counted),
    )  # fmt: skip
