"""Finding the few that fail among many that are handled at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dovetail.platform.errors import blameless

__all__ = ["halved", "one_by_one"]

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def halved(
    items: Sequence[_Item], make: Callable[[Sequence[_Item]], _Made]
) -> tuple[list[tuple[Sequence[_Item], _Made]], list[tuple[_Item, Exception]]]:
    """Gives what ``make`` makes of ``items``: of all at once, or, where that raises, of halves, down to single ones.

    Returns the runs of items that went well, each with what was made of it, in order, and the items that fail by
    themselves, each with what it raised, of any type: an item that comes from outside must not stop those beside it.
    log2(n) calls per failing item instead of n. What is no item's fault is raised
    (:func:`~dovetail.platform.errors.blameless`): a lack of memory, a store that cannot be reached.
    """
    good: list[tuple[Sequence[_Item], _Made]] = []
    bad: list[tuple[_Item, Exception]] = []
    _halve(items, make, good, bad)
    return good, bad


def one_by_one(
    items: Sequence[_Item], make: Callable[[_Item], _Made]
) -> tuple[list[tuple[_Item, _Made]], list[tuple[_Item, Exception]]]:
    """Gives what ``make`` makes of each item, and those that fail with what they raised; as :func:`halved`."""
    good: list[tuple[_Item, _Made]] = []
    bad: list[tuple[_Item, Exception]] = []
    for item in items:
        try:
            good.append((item, make(item)))
        except Exception as error:
            if blameless(error):
                raise
            bad.append((item, error))
    return good, bad


def _halve(
    items: Sequence[_Item],
    make: Callable[[Sequence[_Item]], _Made],
    good: list[tuple[Sequence[_Item], _Made]],
    bad: list[tuple[_Item, Exception]],
) -> None:
    if not items:
        return
    try:
        good.append((items, make(items)))
    except Exception as error:
        if blameless(error):
            raise
        if len(items) == 1:
            bad.append((items[0], error))
            return
        middle = len(items) // 2
        _halve(items[:middle], make, good, bad)
        _halve(items[middle:], make, good, bad)
