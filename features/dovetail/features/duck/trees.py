"""DuckDB's syntax trees as ``json_serialize_sql`` gives them: their nodes, and which two of them mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["nodes", "without_places"]

_WITH_PARTS = (dict, list)


def nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every node of ``tree``, which is a node or a list, parents before their parts, in the order of the text."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            part = part.values()
        # Most parts are names, numbers and NULLs: those do not wait.
        waiting += [inner for inner in reversed(part) if isinstance(inner, _WITH_PARTS)]


def without_places(tree: Any) -> Any:
    """``tree`` without where in the text its parts stand: equal for texts that mean the same."""
    if isinstance(tree, dict):
        return {name: without_places(part) for name, part in tree.items() if not name.startswith("query_location")}
    return [without_places(part) for part in tree] if isinstance(tree, list) else tree
