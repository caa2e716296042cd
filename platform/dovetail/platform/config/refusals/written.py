"""Values of ``dovetail.toml`` as TOML has them, not as Python does, and the words for their kinds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time

__all__ = ["KINDS", "written"]

#: What a value of another kind is not, and what to write instead.
KINDS = {
    "string": ("no text", 'write it in quotes, like "name"'),
    "path": ("no path", 'write it in quotes, like "data/items"'),
    "dict": ("no section", "write a section with keys of its own"),
    "model": ("no section", "write a section with keys of its own"),
    "bool": ("neither true nor false", "write one of them, without quotes"),
    "int": ("no whole number", "write one without quotes, like 3"),
    "float": ("no number", "write one without quotes, like 0.5"),
    "finite": ("no whole number", "write one without quotes, like 3"),
}


def written(value: object) -> str:
    """``value`` for an error's text: dates, true and false as they are written; of a section only that it is one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return "{…}"
    return repr(value)
