"""The aggregates of the language: what each takes, what it gives, and why it is refused what it is refused.

Both engines keep to one rule: **the value is a function of the set of events**, never of the order in which they are
read. Where order matters it is the total order ``(event_time, partition, offset, row)``; where numbers are added they
are integers.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from dovetail.features.plan.definitions import AggregateFunction

__all__ = [
    "BY_KEY",
    "DEVIATIONS",
    "FOLDED",
    "MAX_LISTED",
    "MAX_SEQUENCE",
    "MOMENTS",
    "ORDERED",
    "PICKING",
    "SHAPES",
    "Refusal",
    "decimal_scale",
    "refusal",
    "result_type",
]

#: Sample and population variance and standard deviation: finished from count, Σx and Σx².
DEVIATIONS: tuple[AggregateFunction, ...] = ("var_samp", "var_pop", "stddev_samp", "stddev_pop")
#: Folded into words of fixed width, event by event.
FOLDED: tuple[AggregateFunction, ...] = ("count", "sum", "avg", "min", "max", *DEVIATIONS)
#: Decided by the total order.
ORDERED: tuple[AggregateFunction, ...] = (
    *("first", "last", "arg_min", "arg_max", "first_distinct", "last_distinct"),
    *("nth_oldest", "nth_newest", "newest"),
)
#: Picked as they are: their values may be structs.
PICKING: tuple[AggregateFunction, ...] = (
    *("first", "last", "arg_min", "arg_max", "nth_oldest", "nth_newest", "newest"),
)
#: Folded per key of a MAP.
BY_KEY: tuple[AggregateFunction, ...] = ("sum_by", "avg_by", "least_by", "greatest_by")
#: Finished from the moments of the distribution: of numbers.
MOMENTS: tuple[AggregateFunction, ...] = ("skewness", "kurtosis", "kurtosis_pop")
#: Finished from how often each value occurs.
SHAPES: tuple[AggregateFunction, ...] = ("entropy", *MOMENTS)
#: The longest list of ``arg_max(x, y, k)`` and its like.
MAX_LISTED = 1_000
#: The longest list of the newest events, whose state is kept in chunks.
MAX_SEQUENCE = 100_000
_SQUARABLE_DIGITS = 14
_MAX_DIGITS = 18
_MAX_MEMBERS = 62


class Refusal(NamedTuple):
    """Why an argument will not do: what follows "f(x) over TYPE", and what to write instead."""

    why: str
    remedy: str


def refusal(function: AggregateFunction, argument: pa.DataType, by: pa.DataType | None) -> Refusal | None:
    """Why ``function`` of ``argument`` (and ``by``) has no exact value kept in bounded words; None when it has."""
    if function == "count":
        return None
    if function == "histogram_each":
        if not pa.types.is_list(argument) and not pa.types.is_fixed_size_list(argument):
            return Refusal(" is no list", "write histogram(x) OVER w")
        return _key_refusal(argument.value_type)
    added = by if function in ("sum_by", "avg_by") and by is not None else argument
    if function in ("sum", "avg", "sum_by", "avg_by", *DEVIATIONS, *MOMENTS):
        return _number_refusal(function, added) or (None if added is argument else _key_refusal(argument))
    if function in ("least_by", "greatest_by") and by is not None:
        if not _is_word(by) or pa.types.is_floating(by):
            return Refusal(
                " is not kept per key", "make the value a number of at most 18 digits, DATE, TIMESTAMP or BOOLEAN"
            )
        return _key_refusal(argument)
    if function in ("count_distinct", "histogram", "top_k", "first_distinct", "last_distinct", "entropy"):
        return _key_refusal(argument)
    ordering = argument if by is None else by
    if by is not None and not _is_word(ordering):
        return Refusal(" in the order of that type", "order by a number of at most 18 digits, DATE or TIMESTAMP")
    if pa.types.is_struct(argument) and function in PICKING:
        return _member_refusal(argument)
    if not _is_value(argument):
        return Refusal(
            " is not kept by the stream", "use a number of at most 18 digits, VARCHAR, DATE, TIMESTAMP or BOOLEAN"
        )
    return None


def _member_refusal(struct: pa.StructType) -> Refusal | None:
    if struct.num_fields > _MAX_MEMBERS:
        return Refusal(f" has {struct.num_fields} members", f"use at most {_MAX_MEMBERS}")
    for member in struct:
        if not _is_value(member.type):
            return Refusal(
                f" has a member {member.name} of a type that is not kept by the stream",
                "make each member a number of at most 18 digits, VARCHAR, DATE, TIMESTAMP or BOOLEAN",
            )
    return None


def _number_refusal(function: AggregateFunction, type_: pa.DataType) -> Refusal | None:
    if pa.types.is_floating(type_):
        return Refusal(" depends on evaluation order", "declare the column DECIMAL(p,s)")
    if not _is_exact(type_):
        return Refusal("", "use an integer or a DECIMAL of at most 18 digits; CAST the argument")
    digits = type_.precision if isinstance(type_, pa.Decimal128Type) else {8: 3, 16: 5, 32: 10}.get(type_.bit_width, 19)
    if function in DEVIATIONS and digits > _SQUARABLE_DIGITS:
        return Refusal(
            " needs sums of squares beyond the 128 bits that both engines add exactly",
            f"CAST the argument to INTEGER or DECIMAL({_SQUARABLE_DIGITS},s)",
        )
    return None


def _key_refusal(type_: pa.DataType) -> Refusal | None:
    if pa.types.is_floating(type_):
        return Refusal(" counts values that compare equal and print differently", "CAST the argument to DECIMAL(p,s)")
    if not _is_value(type_):
        return Refusal(
            " is not kept by the stream", "use a number of at most 18 digits, VARCHAR, DATE, TIMESTAMP or BOOLEAN"
        )
    return None


def result_type(
    function: AggregateFunction, argument: pa.DataType, by: pa.DataType | None, k: int | None
) -> pa.DataType:
    """The Arrow type of ``function``'s value; the arguments are ones that :func:`refusal` accepts."""
    if function in ("count", "count_distinct"):
        return pa.int64()
    if function == "sum":
        return pa.decimal128(38, decimal_scale(argument))
    if function == "avg" or function in (*DEVIATIONS, *SHAPES):
        return pa.float64()
    if function == "histogram":
        return pa.map_(argument, pa.uint64())
    if function == "histogram_each":
        return pa.map_(argument.value_type, pa.uint64())
    if function == "avg_by":
        return pa.map_(argument, pa.float64())
    if function in ("least_by", "greatest_by"):
        return pa.map_(argument, by or argument)
    if function == "sum_by":
        return pa.map_(argument, pa.decimal128(38, decimal_scale(by or argument)))
    return argument if k is None or function in ("nth_oldest", "nth_newest") else pa.list_(argument)


def decimal_scale(type_: pa.DataType) -> int:
    """Digits after the point; 0 for integers."""
    return type_.scale if isinstance(type_, pa.Decimal128Type) else 0


def _is_exact(type_: pa.DataType) -> bool:
    return bool(pa.types.is_signed_integer(type_)) or (
        isinstance(type_, pa.Decimal128Type) and type_.precision <= _MAX_DIGITS
    )


def _is_word(type_: pa.DataType) -> bool:
    others = (pa.bool_(), pa.float32(), pa.float64(), pa.date32(), pa.timestamp("us"))
    return _is_exact(type_) or type_ in others


def _is_value(type_: pa.DataType) -> bool:
    return _is_word(type_) or type_ == pa.string()
