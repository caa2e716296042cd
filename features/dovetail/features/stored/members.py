"""Members of STRUCT columns: those that a definition reads, and those that only lie beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import pyarrow as pa

from dovetail.features.duck.parsing import syntax_tree
from dovetail.features.duck.trees import nodes

__all__ = ["Paths", "beside", "members_named", "only"]

#: Members, outermost first, each a tuple of names in lower case; the empty one is the whole value.
Paths = frozenset[tuple[str, ...]]

_WHOLE: Paths = frozenset({()})


def members_named(texts: Iterable[str | None], columns: Collection[str]) -> dict[str, Paths]:
    """The members that the expressions read of each of ``columns`` that they name: ``a.b`` is member ``b`` of ``a``.

    What is written in another way, like ``a['b']``, reads all of the column.
    """
    known = {name.lower(): name for name in columns}
    found: dict[str, set[tuple[str, ...]]] = {}
    for text in texts:
        for node in nodes(syntax_tree(text)) if text is not None else ():
            parts = [str(part).lower() for part in node.get("column_names", ())]
            if parts and parts[0] in known:
                found.setdefault(known[parts[0]], set()).add(tuple(parts[1:]))
            for part in parts[1:]:  # it may as well be a column, and what is before it a table
                if part in known:
                    found.setdefault(known[part], set()).add(())
    return {name: frozenset(paths) for name, paths in found.items()}


def only(type_: pa.DataType, paths: Paths) -> pa.DataType:
    """The type with just the members at ``paths``, by name; any other type as it is."""
    if () in paths or not pa.types.is_struct(type_):
        return type_
    inside = _inside(paths)
    read = [pa.field(member.name, only(member.type, inside[member.name.lower()]))
            for member in type_ if member.name.lower() in inside]  # fmt: skip
    return pa.struct(sorted(read, key=lambda member: str(member.name)))


def beside(type_: pa.DataType, paths: Paths) -> Iterator[tuple[str, pa.DataType]]:
    """The members that are not at ``paths``, as ``.name`` after ``.name``, and their types, none a STRUCT."""
    if () in paths or not pa.types.is_struct(type_):
        return
    inside = _inside(paths)
    for member in type_:
        mine = inside.get(member.name.lower())
        found = _leaves(member.type) if mine is None else beside(member.type, mine)
        yield from ((f".{member.name}{name}", leaf) for name, leaf in found)


def _leaves(type_: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The parts of a type that are no STRUCTs, by their paths; ``[]`` are the elements of a list."""
    if pa.types.is_struct(type_):
        yield from beside(type_, frozenset())
    elif pa.types.is_list(type_) and pa.types.is_struct(type_.value_type):
        yield from ((f"[]{name}", leaf) for name, leaf in _leaves(type_.value_type))
    else:
        yield "", type_


def _inside(paths: Paths) -> Mapping[str, Paths]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for first, *rest in paths:
        found.setdefault(first, set()).add(tuple(rest))
    return {name: frozenset(rest) for name, rest in found.items()}
