"""The flow as a picture: topics, the stages that read them, and what goes from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from dovetail.app.looking.flow_state import FlowState, Reading, StageState
from dovetail.console.layered import curve
from dovetail.features import Project

__all__ = ["FlowBox", "FlowLine", "FlowPicture", "flow_picture"]

_WIDTH, _HEIGHT, _TOPIC_HEIGHT, _GAP, _BETWEEN, _MARGIN, _ABOVE = 178, 58, 34, 16, 84, 8, 42
#: Nothing is read: a stage hands on what it has by itself.
_Edge: TypeAlias = tuple[str, str, Reading | None]


#: The stages of a model on shards behind the gatherer, which has the trainer's place; and to which each hands on.
_BEHIND = ("splitter", "gradients", "shards", "reducer", "versions")
_SHARDED = {
    "trainer": ("splitter",),
    "splitter": ("shards", "reducer"),
    "shards": ("reducer", "versions"),
    "reducer": ("versions", "shards"),
}
#: By samples, where workers compute the gradients.
_BY_SAMPLES = {
    "trainer": ("splitter",),
    "splitter": ("gradients",),
    "gradients": ("shards", "reducer"),
    "shards": ("gradients", "versions"),
    "reducer": ("versions",),
}


class FlowBox(NamedTuple):
    """A topic or a stage at a place; ``stage`` is None of a topic."""

    name: str
    x: int
    y: int
    width: int
    height: int
    stage: StageState | None
    messages: int = 0


class FlowLine(NamedTuple):
    """An arrow. What is ``read`` along it says how many messages are on it; None where nothing is read from a topic.

    ``rate`` is rows a second, None where it is not known. Both stand around (``x``, ``y``).
    """

    path: str
    x: int
    y: int
    read: Reading | None
    rate: float | None


class FlowPicture(NamedTuple):
    """Boxes and arrows in a drawing of ``width`` by ``height``."""

    width: int
    height: int
    boxes: list[FlowBox]
    lines: list[FlowLine]


def flow_picture(project: Project, state: FlowState, rates: Mapping[tuple[str, str], float]) -> FlowPicture:
    """Topics from outside, then feature and label agents, snapshots, samples, the trainer. Archives are not in it.

    ``rates`` are rows a second by stage and topic. Of a model on shards the trainer is a gatherer;
    behind it are splitter, shards, reducer and versions, and by samples the workers that compute gradients.
    """
    config = project.config
    stages = {stage.name: stage for stage in state.stages if stage.kind != "archive"}
    outside = [config.request.topic]
    outside = [s.topic for s in project.streams.values() if s.rekeyed_from is None] + outside
    outside += [declared.topic or kind for kind, declared in config.labels.streams.items()]
    kinds = {name: stage.kind for name, stage in stages.items()}
    columns: list[list[str]] = [
        list(dict.fromkeys(outside)),
        [name for name, kind in kinds.items() if kind == "rekey"],
        [name for name, kind in kinds.items() if kind == "features"],
        [name for name, kind in kinds.items() if kind in ("snapshots", "labels")],
        [name for name, kind in kinds.items() if kind == "samples"],
        [name for name, kind in kinds.items() if kind == "order"],
        *([name for name, kind in kinds.items() if kind == part] for part in ("trainer", *_BEHIND)),
    ]
    boxes = _placed([column for column in columns if column], stages, state)
    edges = _edges(project, stages, set(columns[0]))
    lines = [_arrow(boxes[a], boxes[b], read, rates.get((b, read.topic)) if read else None) for a, b, read in edges]
    width = max(box.x + box.width for box in boxes.values()) + _MARGIN
    height = max(box.y + box.height for box in boxes.values()) + _MARGIN
    return FlowPicture(width, height, list(boxes.values()), lines)


def _placed(columns: list[list[str]], stages: dict[str, StageState], state: FlowState) -> dict[str, FlowBox]:
    heights = [sum(_tall(name, stages) + _GAP for name in column) for column in columns]
    boxes: dict[str, FlowBox] = {}
    for number, column in enumerate(columns):
        x, y = _MARGIN + number * (_WIDTH + _BETWEEN), _ABOVE + (max(heights) - heights[number]) // 2
        for name in column:
            tall = _tall(name, stages)
            boxes[name] = FlowBox(name, x, y, _WIDTH, tall, stages.get(name), state.topics.get(name, 0))
            y += tall + _GAP
    return boxes


def _tall(name: str, stages: dict[str, StageState]) -> int:
    return _HEIGHT if name in stages else _TOPIC_HEIGHT


def _edges(project: Project, stages: dict[str, StageState], outside: set[str]) -> list[_Edge]:
    """From where to where, with what the reader says of it where a topic is read."""
    made = {stream.topic: f"rekey.{name}" for name, stream in project.streams.items() if stream.rekeyed_from}
    found: list[_Edge] = []
    before = {"samples": "snapshots", "order": "samples", "trainer": "order" if _has(stages, "order") else "samples"}
    for name, stage in stages.items():
        if stage.kind in before:
            givers = [other for other, each in stages.items() if each.kind == before[stage.kind]]
            found += [(giver, name, stage.reads[0] if giver == givers[0] else None) for giver in givers]
        elif stage.kind in _BEHIND:
            ways = _BY_SAMPLES if _has(stages, "gradients") else _SHARDED
            givers = [giver for giver, readers in ways.items() if name in readers]
            found += [(giver, name, stage.reads[0] if giver == givers[0] else None) for giver in givers]
        else:
            for reading in stage.reads:
                giver = reading.topic if reading.topic in outside else made.get(reading.topic, "")
                found += [(giver, name, reading)] if giver in outside or giver in stages else []
        if stage.kind == "features":
            found.append((name, "snapshots", None))
        if stage.kind == "samples":
            found += [(other, name, None) for other, each in stages.items() if each.kind == "labels"]
        if stage.kind == ("versions" if _has(stages, "versions") else "trainer"):
            found.append((name, "snapshots", None))
    return found


def _has(stages: dict[str, StageState], kind: str) -> bool:
    return any(stage.kind == kind for stage in stages.values())


def _arrow(a: FlowBox, b: FlowBox, read: Reading | None, rate: float | None) -> FlowLine:
    if b.x > a.x:
        middle = (a.x + a.width + b.x) // 2, (a.y + a.height // 2 + b.y + b.height // 2) // 2
        return FlowLine(curve(a, b), *middle, read, rate)
    # Back: the model, which the snapshot agent takes up, and what shards are told or tell.
    x, y, to_x, to_y = a.x + a.width // 2, a.y, b.x + b.width // 2, b.y
    top = min(y, to_y) - _ABOVE
    return FlowLine(f"M{x} {y} C{x} {top} {to_x} {top} {to_x} {to_y}", to_x, top, read, rate)
