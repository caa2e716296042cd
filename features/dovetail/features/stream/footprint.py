"""Bounds of the state that a streaming view keeps per key, from its definition alone; ``dovetail check`` shows them.

A view of a UNION ALL keeps as much for each of its SELECTs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.features.plan.definitions import StreamView
from dovetail.features.stream.collections.rules import (
    ALL,
    BEST,
    FIRST,
    GROUP,
    LATEST,
    PLAIN_STEP,
    ROWS,
    Collection,
    CollectionLayout,
)
from dovetail.features.stream.layout import UNBOUNDED_STEP, Layout

__all__ = ["state_of"]

_UNLIMITED = 1 << 31


def state_of(view: StreamView, lateness: int) -> Mapping[str, Any]:
    """Per key: ``raw_s`` seconds of rows, ``partials`` of fixed width, and the ``collections`` of values."""
    layout = Layout(view)
    partials = unbounded = 0
    for step in layout.steps:
        if step.step_us == UNBOUNDED_STEP:
            unbounded += 1
        else:
            partials += -(-(step.reach_us - step.end_us) // step.step_us) + 2 - (-lateness // step.step_us)
    # Rows are kept for the longest plain window; under hop windows only until no window may end inside a step.
    heads = [step.step_us + step.end_us for step in layout.steps]
    raw = (max([layout.plain_reach_us or 0, *heads], default=0) + lateness) / 1e6 if layout.folded else 0.0
    kept = CollectionLayout(view, layout).collections
    return {
        "raw_s": raw,
        "partials": unbounded + partials,
        "collections": [{"of": view.inputs[c.input].argument or "*", "keeps": _keeps(c)} for c in kept],
    }


def _keeps(collection: Collection) -> str:
    k, step = collection.k, collection.step
    within = "ever" if step == UNBOUNDED_STEP else f"in {collection.reach_us / 1e6:g} s"
    per = {PLAIN_STEP: "event", UNBOUNDED_STEP: "key"}.get(step, f"{step / 1e6:g} s")
    kept = {
        ALL: f"every event {within}",
        BEST: f"the events {within} that {k} others do not beat",
        LATEST: f"the last {k} distinct values {within}"
        if k < _UNLIMITED
        else f"one event per distinct value {within}",
        FIRST: f"one event per distinct value and {per} {within}",
        GROUP: f"count and {('sum', 'least', 'greatest')[collection.fold]} per distinct value and {per} {within}",
        ROWS: f"the last {k} events",
    }[collection.rule]
    before = f" and {collection.end_us / 1e6:g} s" if collection.end_us > 1 else ""  # a microsecond: strictly before
    return f"{kept}, and the events within allowed_lateness{before}"
