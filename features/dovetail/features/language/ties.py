"""Finds aggregates of a batch view that leave a choice between rows to the order in which a file has them.

``arg_max(x, y)`` of two rows with one ``y`` takes whichever comes first, another one when the file is written anew.
What decides is an order that the definition names: a struct or row of several keys, ``arg_max(x, {'y': y, 'x': x})``.
With the picked value among the keys no choice is left, whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.features.duck.parsing import syntax_tree
from dovetail.features.duck.trees import nodes, without_places

__all__ = ["Undecided", "names_an_order", "undecided"]

_PICKS = frozenset(
    f"{name}{more}"
    for name in ("arg_max", "arg_min", "argmax", "argmin", "max_by", "min_by")
    for more in ("", "_null", "_nulls_last")
)
_LISTS = frozenset({"list", "array_agg", "string_agg", "group_concat", "listagg"})
_STRUCTS = frozenset({"struct_pack", "row"})


class Undecided(NamedTuple):
    """An aggregate that leaves ties to the order of rows: its name, and what to write instead."""

    name: str
    remedy: str


def undecided(sql: str) -> Undecided | None:
    """The first aggregate of a query that leaves a choice between rows to their order; None when each is decided.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    for call in _calls(sql):
        name, given = str(call["function_name"]).lower(), [a["expression"] for a in call["arguments"]]
        if name == "mode":
            return Undecided(name, "write top_k(histogram(x), 1)[1]: of equally frequent values the smaller")
        if name in _PICKS and len(given) > 1 and not _decides(given[1], given[0]):
            return Undecided(
                name,
                f"name what decides ties: {name}(x, {{'y': y, 'x': x}}), of equal y by x itself; where y may be NULL, "
                "add FILTER (WHERE y IS NOT NULL), because a struct that holds a NULL is ordered, too",
            )
        if name in _LISTS and given and not _ordered(call, given[0]):
            return Undecided(name, f"write its order, with the value itself as the last key: {name}(x ORDER BY y, x)")
    return None


def names_an_order(sql: str) -> bool:
    """Whether some pick of a query is decided by keys without the value itself: rows equal in them may differ."""
    picks = [call for call in _calls(sql) if str(call["function_name"]).lower() in _PICKS]
    given = [[argument["expression"] for argument in call["arguments"]] for call in picks]
    return any(len(parts) > 1 and not _holds(parts[1], parts[0]) for parts in given)


def _calls(sql: str) -> Iterator[Mapping[str, Any]]:
    tree = syntax_tree(f"({sql.rstrip().rstrip(';')}\n)")
    return (node for node in nodes(tree) if "function_name" in node and "arguments" in node)


def _decides(key: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether the key names an order of several parts, or is the value itself."""
    return _same(key, value) or (_is_struct(key) and len(key["arguments"]) > 1)


def _holds(key: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether rows with equal keys have equal values."""
    return _same(key, value) or (_is_struct(key) and any(_holds(a["expression"], value) for a in key["arguments"]))


def _is_struct(key: Mapping[str, Any]) -> bool:
    return str(key.get("function_name", "")).lower() in _STRUCTS


def _ordered(call: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    orders = (call.get("order_bys") or {}).get("orders") or ()
    return any(_holds(order["expression"], value) for order in orders)


def _same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return bool(_bare(left) == _bare(right))


def _bare(tree: Mapping[str, Any]) -> Any:
    """The tree without places and without the name that a struct gives the member."""
    return without_places({name: part for name, part in tree.items() if name != "alias"})
