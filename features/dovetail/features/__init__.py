"""Feature definitions in SQL, and what they mean: loading and checking, batch evaluation, the stream engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.features.project import Project, load

__all__ = ["Project", "load"]


def __getattr__(name: str) -> Any:
    """The project and its loading, imported when they are asked for: a process that runs a part of this package, like
    the child that computes expressions within bounds (``duck/bounded_child.py``), starts without them."""
    if name in __all__:
        return globals().setdefault(name, getattr(import_module("dovetail.features.project"), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
