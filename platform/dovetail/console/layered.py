"""A lineage laid out as a picture: four columns of boxes, and lines from what is read to what reads it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dovetail.app.looking.lineage import LAYERS, Lineage, Node

__all__ = ["Box", "Picture", "curve", "picture_of"]

_WIDTH, _HEIGHT, _GAP, _BETWEEN, _MARGIN = 210, 20, 6, 90, 8
_LETTERS = 29


class Placed(Protocol):
    """A rectangle in a drawing."""

    @property
    def x(self) -> int: ...
    @property
    def y(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class Box(NamedTuple):
    """A node at a place; ``text`` is its name, cut to the box's width."""

    node: Node
    x: int
    y: int
    width: int
    height: int
    text: str


class Picture(NamedTuple):
    """Boxes and lines, each the ``d`` of an SVG path, in a drawing of ``width`` by ``height``."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[str]


def picture_of(lineage: Lineage) -> Picture:
    """The layers side by side, each in the order of its nodes. A layer without nodes takes no room."""
    layers = [layer for layer in LAYERS if any(node.layer == layer for node in lineage.nodes)]
    boxes: dict[Node, Box] = {}
    tallest = 0
    for column, layer in enumerate(layers):
        y = _MARGIN
        for node in (node for node in lineage.nodes if node.layer == layer):
            called = f"{node.owner}.{node.name}" if layer in ("source", "view") else node.name
            text = called if len(called) <= _LETTERS else f"{called[: _LETTERS - 1]}…"
            boxes[node] = Box(node, _MARGIN + column * (_WIDTH + _BETWEEN), y, _WIDTH, _HEIGHT, text)
            y += _HEIGHT + _GAP
        tallest = max(tallest, y)
    lines = [curve(boxes[a], boxes[b]) for a, b in lineage.edges]
    width = 2 * _MARGIN + len(layers) * _WIDTH + max(0, len(layers) - 1) * _BETWEEN
    return Picture(width, tallest + _MARGIN, list(boxes.values()), lines)


def curve(a: Placed, b: Placed) -> str:
    """The ``d`` of an SVG path from the right of ``a`` to the left of ``b``."""
    x, y, to_x, to_y = a.x + a.width, a.y + a.height // 2, b.x, b.y + b.height // 2
    bend = (to_x - x) // 2
    return f"M{x} {y} C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"
