"""Legends that stay within their picture, however many names they have and however long these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.trainer.metrics.axes import label_expression

__all__ = ["legend"]

#: Entries of a legend, at most.
_ENTRIES = 30
#: Pixels of an entry beside its name: the symbol, what is between both, and what is between columns.
_BESIDE = 32
#: Pixels of a character in a font of 10, at most: Latin ones, wide Latin ones, all others.
_NARROW, _WIDE, _OTHER = 6.5, 10.0, 12.5


def legend(names: Sequence[str], width: int) -> dict[str, Any]:
    """Properties of Vega-Lite's ``legend`` of ``names``, which is at most ``width`` pixels wide.

    Names stand in as many columns as have room. One that is longer than the whole width is shown without its middle:
    versions of a model, and values of a slice, often differ at the end of their names. Of more than 30 names the first
    29 have entries, and a last one says how many others there are.
    """
    named = names if len(names) <= _ENTRIES else names[: _ENTRIES - 1]
    longest = max(_pixels(name) for name in [*named, *([] if named is names else [f"…{len(names)} entries"])])
    columns = min(len(names), max(1, int(width // (longest + _BESIDE))))
    room = width // columns - _BESIDE
    shown = [_without_middle(name, room) for name in named]
    properties: dict[str, Any] = {"columns": columns, "symbolLimit": _ENTRIES, "labelLimit": room}
    if shown != list(named):
        # The entry of the others keeps the label that Vega gives it.
        properties["labelExpr"] = f"{label_expression(named, shown)} || datum.label"
    return properties


def _without_middle(name: str, room: float) -> str:
    if _pixels(name) <= room:
        return name
    half = (room - _OTHER) / 2
    return f"{_within(name, half)}…{_within(name[::-1], half)[::-1]}"


def _within(text: str, room: float) -> str:
    """The longest beginning of ``text`` that has ``room``."""
    end = 0
    while end < len(text) and (room := room - _pixels(text[end])) >= 0:
        end += 1
    return text[:end]


def _pixels(text: str) -> float:
    return sum(
        _OTHER if not each.isascii() else _WIDE if each.isupper() or each in "mw@%&" else _NARROW for each in text
    )
