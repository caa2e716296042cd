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
    CollectionLayout,
)
from dovetail.features.stream.layout import UNBOUNDED_STEP, Layout

__all__ = ["state_of"]

_UNLIMITED = 1 << 31


def state_of(view: StreamView, lateness: int) -> Mapping[str, Any]:
    """Per key: ``raw_s`` seconds of rows, ``partials`` of fixed width, and the ``collections`` of values."""
    layout = Layout(view)
    partials: dict[int, int] = {}
    for window in layout.windows:
        if window.step_us is not None:
            buckets = -(-window.size_us // window.step_us) + 2
            partials[window.step_us] = max(partials.get(window.step_us, 0), buckets)
    unbounded = sum(step.step_us == UNBOUNDED_STEP for step in layout.steps)
    # Rows are kept for the longest plain window; under hop windows only until no request may ask inside a step.
    raw = (max([layout.plain_reach_us or 0, *partials], default=0) + lateness) / 1e6 if layout.folded else 0.0
    kept = CollectionLayout(view, layout).collections
    return {
        "raw_s": raw,
        "partials": unbounded + sum(buckets + -(-lateness // step) for step, buckets in partials.items()),
        "collections": [
            {"of": view.inputs[c.input].argument or "*", "keeps": _keeps(c.rule, c.k, c.step, c.reach_us)} for c in kept
        ],
    }


def _keeps(rule: int, k: int, step: int, reach_us: int) -> str:
    within = "ever" if step == UNBOUNDED_STEP else f"in {reach_us / 1e6:g} s"
    per = {PLAIN_STEP: "event", UNBOUNDED_STEP: "key"}.get(step, f"{step / 1e6:g} s")
    kept = {
        ALL: f"every event {within}",
        BEST: f"the events {within} that {k} others do not beat",
        LATEST: f"the last {k} distinct values {within}"
        if k < _UNLIMITED
        else f"one event per distinct value {within}",
        FIRST: f"one event per distinct value and {per} {within}",
        GROUP: f"count and sum per distinct value and {per} {within}",
        ROWS: f"the last {k} events",
    }[rule]
    return kept + ", and the events within allowed_lateness"
