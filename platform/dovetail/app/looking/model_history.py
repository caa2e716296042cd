"""A model over time: its metrics by window and slice, how reliable its scores were, and the weights that moved most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.datasets import newest_samples
from dovetail.app.modelling import encoder_of_stored
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.platform.config.load import ModelConfig
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.platform.stores.registry.ranked import RankingRow
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.metrics.charts import ChartLine, reliability
from dovetail.trainer.models.contributions import BIAS, explain
from dovetail.trainer.models.publish import Model
from dovetail.trainer.samples.label_columns import column_of_numbers, with_labels

__all__ = [
    "ModelMetricsHistory",
    "MovedWeight",
    "metrics_history",
    "moved_weights",
    "rankings_history",
    "recent_reliability",
    "recent_samples",
]

_WINDOWS, _POINTS, _SAMPLES, _NAMED = 500, 2_000, 50_000, 5_000
#: Where files are small, so many are read at the most.
_FILES = 40

R = TypeVar("R", MetricRow, RankingRow)


class ModelMetricsHistory(NamedTuple, Generic[R]):
    """Metrics of one kind as the trainer has stored them, oldest first.

    ``windows`` are of event time; ``total`` by samples trained, and ``slices`` by scope the same.
    """

    windows: Sequence[R]
    total: Sequence[R]
    slices: dict[str, list[R]]


class MovedWeight(NamedTuple):
    """A weight of the newest version beside that of the one before, and an input and value that it is of, if known.

    Other values may share its slot.
    """

    slot: int
    name: str
    value: str | None
    before: float
    after: float

    @property
    def moved(self) -> float:
        """How far it has moved."""
        return self.after - self.before


def metrics_history(stores: Stores, model: str) -> ModelMetricsHistory[MetricRow]:
    """The newest metrics of ``model``, so many that a chart can show."""
    return _history(stores.registry.newest_metrics, model)


def rankings_history(stores: Stores, model: str) -> ModelMetricsHistory[RankingRow]:
    """The newest ranking metrics of ``model``, as many."""
    return _history(stores.registry.newest_rankings, model)


def _history(read: Callable[[str, str, int], list[R]], model: str) -> ModelMetricsHistory[R]:
    slices: dict[str, list[R]] = {}
    for row in read(model, "slice:", _POINTS):
        slices.setdefault(row.scope.removeprefix("slice:"), []).append(row)
    windows = sorted(read(model, "time:", _WINDOWS), key=lambda row: row.scope)
    return ModelMetricsHistory(windows, read(model, "total", _POINTS), slices)


def recent_reliability(stores: Stores, model: ModelConfig) -> tuple[ChartLine, int] | None:
    """Mean label over mean score of the newest archived samples as they were served, and how many; None without.

    The label is the model's, and where it is absent it is 0 or the sample is left out, as ``absent_label`` says.
    """
    read = ("score", "weight", model.label)
    rows = recent_samples(stores, read, _SAMPLES)
    if rows is None or not {*read} <= {*rows.column_names}:
        return None
    rows = rows.filter(pc.and_(rows.column("score").is_valid(), rows.column("weight").is_valid()))
    scores, weights = (column_of_numbers(rows, name, name).astype(np.float32) for name in ("score", "weight"))
    labels, weights = with_labels(rows, model.label, weights, model.absent_label or "skip")
    there = weights > 0
    if not there.any():
        return None
    return reliability("served scores", scores[there], labels[there], weights[there]), int(there.sum())


def moved_weights(project: Project, stores: Stores, most: int) -> tuple[list[MovedWeight], int, int]:
    """The weights that differ most between the two newest versions, and those versions; none where there are no two.

    Their names are those of values in the newest archived samples.

    Raises:
        ModelError: a version cannot be read.
    """
    declared, versions = project.config.model, stores.models.versions()
    if declared is None or len(versions) < 2:
        return [], 0, 0
    old, new = (stores.models.load(version) for version in versions[-2:])
    if old.bits != new.bits:
        return [], versions[-2], versions[-1]
    before, after = old.dense(), new.dense()
    distance = np.abs(after - before)
    slots = np.argsort(-distance, kind="stable")[:most]
    slots = slots[distance[slots] > 0]
    named = _names(declared, new, stores, {int(slot) for slot in slots})
    found = []
    for slot in slots.tolist():
        name, value = named.get(slot, ("", None))
        found.append(MovedWeight(slot, name, value, float(before[slot]), float(after[slot])))
    return found, versions[-2], versions[-1]


def _names(declared: ModelConfig, model: Model, stores: Stores, wanted: set[int]) -> dict[int, tuple[str, str | None]]:
    """An input and a value for each slot that some of the newest samples have."""
    encoder = encoder_of_stored(model, declared)
    rows = recent_samples(stores, None, _NAMED)
    if rows is None or any(name not in rows.column_names for spec in encoder.inputs for name in spec.reads):
        return {}
    slots, _ = encoder.encode(rows, model.moments)
    at = {int(slot): row for row in range(len(slots) - 1, -1, -1) for slot in wanted & set(slots[row].tolist())}
    if not at:
        return {}
    chosen = rows.take(pa.array(sorted(set(at.values())), pa.int64()))
    told: list[dict[str, Any]] = explain(encoder, model.dense(), chosen, model.moments).to_pylist()
    return {
        each["slot"]: (each["input"], None if each["input"] == BIAS else each["value"])
        for each in reversed(told)
        if each["slot"] in wanted
    }


def recent_samples(stores: Stores, columns: Sequence[str] | None, most: int) -> pa.Table | None:
    """The newest archived samples of the primary target, out of as few files as it takes, and of 40 at the most.

    A column that only some of the files have is NULL in rows of the others; one that none has is left out.
    """
    parts: list[pa.Table] = []
    left = most
    for rows in islice(newest_samples(stores, columns), _FILES):
        parts.insert(0, decoded(rows.slice(max(0, rows.num_rows - left))))
        left -= parts[0].num_rows
        if left <= 0:
            break
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks() if parts else None
