"""Axes of numbers with labels that are true, also where values are all the same, nearly the same, tiny or huge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["LARGEST", "AxisOptions", "axis_of_numbers", "label_expression"]

#: Values that are closer than this, of the largest of them, are drawn as the same: labels would need more digits.
_SAME = 1e-9
#: What is added on either side of values that are the same, of the largest of them.
_ROOM = 0.05
#: Values that are all below it have the axis of 0: beside them, floats have no room for ticks.
_TINY = 1e-290
#: An axis can be laid around magnitudes up to this one; beyond, floats may not have the distance of two values.
LARGEST = 1e300
#: Magnitudes that are written without a power of ten.
_PLAIN = (1e-5, 1e9)
#: Of others, with the digits that ``_SAME`` needs and no trailing zeros. Where Vega counts the digits itself, 1e-38 and
#: 1.2e-38 can be one label: the tick before the last is a little below the power of ten.
_POWERS = ".12~e"


class AxisOptions(NamedTuple):
    """Properties of Vega-Lite's ``scale`` and ``axis`` of one channel."""

    scale: dict[str, Any]
    axis: dict[str, Any]


def axis_of_numbers(values: Sequence[float]) -> AxisOptions:
    """Lay an axis around ``values`` so that its labels are true and differ.

    Vega takes the digits of labels from the distance between ticks. Values that are the same have one tick and no such
    distance, and their label would be rounded to a whole number: they get an axis with room on both sides.

    Args:
        values: at least one, none beyond ``LARGEST``.
    """
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if largest < _TINY:
        return AxisOptions({"domain": [-1.0, 1.0]}, {})
    scale: dict[str, Any] = {}
    if high - low <= largest * _SAME:
        scale = {"domain": [low - largest * _ROOM, high + largest * _ROOM]}
    plain = _PLAIN[0] <= largest < _PLAIN[1]
    return AxisOptions(scale, {} if plain else {"format": _POWERS})


def label_expression(values: Sequence[float | str], labels: Sequence[str]) -> str:
    """An expression of Vega that writes each of ``values`` as the label at its place.

    Both lists are literals in it, so a label is a string whatever is written in it.
    """
    return f"{json.dumps(list(labels))}[indexof({json.dumps(list(values))}, datum.value)]"
