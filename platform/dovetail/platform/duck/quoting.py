"""Names and texts as DuckDB reads them in SQL, whatever is in them."""

from __future__ import annotations

__all__ = ["identifier", "literal"]


def identifier(name: str) -> str:
    """``name`` in quotes: never a keyword, a number, or more than one name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` as a constant of type VARCHAR."""
    return "'" + text.replace("'", "''") + "'"
