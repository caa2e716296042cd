"""Finishers as plain SQL: what makes feature values of exact parts where there is nothing but DuckDB.

The engines finish in ``finish.py``. Here are the same fractions for the DuckDB shell: the same bits as long as
numerator and denominator are below 2**53, where doubles are exact; beyond, the last bit may differ. Entropy, skewness
and kurtosis are DuckDB's own, of the same values, whose last digits may differ.
"""

from __future__ import annotations

from functools import cache

import pyarrow as pa

from dovetail.features.duck.connection import connect
from dovetail.features.language.source import quoted
from dovetail.features.plan.aggregates import DEVIATIONS, ORDERED, SHAPES, decimal_scale
from dovetail.features.plan.definitions import StreamView

__all__ = ["FINISHERS", "finished_sql", "type_name"]

#: Macros that :func:`finished_sql` calls.
FINISHERS = (
    "CREATE MACRO unscaled(x) AS CAST(replace(CAST(x AS VARCHAR), '.', '') AS HUGEINT)",
    "CREATE MACRO mean(total, n, power) AS CASE WHEN n > 0 THEN CAST(unscaled(total) AS DOUBLE) / (n * power) END",
    """CREATE MACRO variance_of(total, squares, n, degrees, power) AS CASE WHEN degrees > 0 THEN
           CAST(n * unscaled(squares) - unscaled(total) * unscaled(total) AS DOUBLE)
           / (CAST(n AS DOUBLE) * degrees * CAST(power AS DOUBLE)) END""",
    """CREATE MACRO occurrences(counts) AS flatten(list_transform(map_entries(counts), lambda __e:
           list_resize([__e.key], CAST(__e.value AS BIGINT), __e.key)))""",
    "CREATE MACRO one_zero(x) AS CASE WHEN isnan(x) THEN 'nan' ELSE x + 0 END",
)


@cache
def type_name(type_: pa.DataType) -> str:
    """The type as DuckDB writes it."""
    connection = connect(threads=1)
    connection.register("nothing", pa.table({"value": pa.nulls(1, type_)}))
    name = connection.execute("SELECT typeof(value) FROM nothing").fetchall()[0][0]
    connection.close()
    return str(name)


def finished_sql(view: StreamView, index: int) -> str:
    """The aggregate's value, of its parts ``v<index>``, ``n<index>`` and ``q<index>``; see ``aggregates.finished``."""
    aggregate = view.aggregates[index]
    function, v, n = aggregate.function, f"v{index}", f"n{index}"
    power = 10 ** decimal_scale(view.inputs[aggregate.input].type)
    value = v
    if function == "avg":
        value = f"mean({v}, {n}, {power})"
    elif function in DEVIATIONS:
        degrees = f"{n} - 1" if function.endswith("_samp") else n
        value = f"variance_of({v}, q{index}, {n}, {degrees}, {power**2})"
        value = f"sqrt({value})" if function.startswith("stddev") else value
    elif function in SHAPES:
        value = f"list_aggregate(occurrences({v}), '{function}')"
        value = f"coalesce({value}, 0)" if function == "entropy" else value
    elif function == "avg_by" and aggregate.by is not None:
        power = 10 ** decimal_scale(view.inputs[aggregate.by].type)
        pair = f"{{'k': __k, 'v': mean({v}[__k], {n}[__k], {power})}}"
        value = f"map_from_entries(list_transform(map_keys({v}), lambda __k: {pair}))"
    elif function in ORDERED or pa.types.is_floating(aggregate.type):
        value = _one_zero_sql(v, aggregate.type)
    return f"CAST({value} AS {type_name(aggregate.type)})"


def _one_zero_sql(value: str, type_: pa.DataType) -> str:
    """``value`` with one zero and one NaN, also inside lists and structs."""
    if pa.types.is_floating(type_):
        return f"one_zero({value})"
    if pa.types.is_list(type_):
        element = _one_zero_sql("__x", type_.value_type)
        return value if element == "__x" else f"list_transform({value}, lambda __x: {element})"
    if pa.types.is_struct(type_):
        given = {quoted(member.name): f"({value}).{quoted(member.name)}" for member in type_}
        made = [_one_zero_sql(given[quoted(member.name)], member.type) for member in type_]
        if made != list(given.values()):
            packed = ", ".join(f"{name} := {text}" for name, text in zip(given, made, strict=True))
            return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({packed}) END"
    return value
