"""The shadow beside the serving model: how good both were on the candidates that both scored and that were labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.looking.model_history import recent_samples
from dovetail.app.storage import Stores
from dovetail.platform.config.load import ModelConfig
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.losses import Loss
from dovetail.trainer.metrics.charts import ChartLine, reliability
from dovetail.trainer.metrics.groups import Groups, Places
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings
from dovetail.trainer.samples.label_columns import Absent, with_labels

__all__ = ["Beside", "Measured", "measured_beside", "scored_twice", "shadow_beside"]

#: Files of snapshots that are looked at, the newest.
_FILES = 80
_KEYS = ["request_id", "item_id"]
_SCORES = ["score", "shadow_score"]
_VERSIONS = ["model_version", "shadow_version"]


class Measured(NamedTuple):
    """One of the two, ``serving`` or ``shadow``: its metrics, and how reliable its scores were."""

    role: str
    metrics: Metrics
    reliable: ChartLine


class Beside(NamedTuple):
    """Both on the same samples: ``versions`` are those of each that scored them, ``apart`` is how far scores are apart.

    It is the mean of their distances.
    """

    serving: Measured
    shadow: Measured
    versions: tuple[Sequence[int], Sequence[int]]
    apart: float


def shadow_beside(stores: Stores, model: ModelConfig, most: int) -> Beside | None:
    """Serving and shadow on the newest archived samples, ``most`` at the most; None where none has both scores.

    Raises:
        StoreError: a registered file is gone or cannot be read.
    """
    samples = recent_samples(stores, [*_KEYS, model.label, "weight"], most)
    if samples is None or model.label not in samples.column_names:
        return None
    files = sorted(stores.registry.files("snapshots"), key=lambda file: (file.day, file.last_offset), reverse=True)
    parts = []
    for file in files[:_FILES]:
        with stores.offline.open(file.path) as parquet:
            if {*_SCORES, *_VERSIONS} <= set(parquet.schema_arrow.names):
                parts.append(parquet.read([*_KEYS, *_SCORES, *_VERSIONS]))
            elif not parts and file not in files[:3]:  # no shadow has scored lately
                return None
    if not parts:
        return None
    both = scored_twice(pa.concat_tables(parts, promote_options="permissive"), samples)
    if both.num_rows == 0:
        return None
    serving, shadow = measured_beside(both, model.label, model.absent_label or "skip", model.loss)
    found = tuple(sorted(pc.unique(both.column(name)).to_pylist()) for name in _VERSIONS)
    scores, others = (_float32(both, name) for name in _SCORES)
    return Beside(serving, shadow, (found[0], found[1]), float(np.abs(scores - others).mean()))


def scored_twice(snapshots: pa.Table, samples: pa.Table) -> pa.Table:
    """The labelled candidates that a shadow has scored, too, with both scores."""
    scored = snapshots.filter(pc.is_valid(snapshots.column("shadow_score")))
    kept = [name for name in (*_KEYS, *_SCORES, *_VERSIONS) if name in scored.column_names]
    return scored.select(kept).join(samples, _KEYS, join_type="inner")


def measured_beside(both: pa.Table, label: str, absent: Absent, loss: Loss) -> list[Measured]:
    """Serving and shadow on rows that have both scores, a weight and a label; a label may be ``absent``."""
    labels, weights = with_labels(both, label, _float32(both, "weight"), absent)
    found = []
    for role, column in zip(("serving", "shadow"), _SCORES, strict=True):
        evaluation = Evaluation(loss=loss)
        evaluation.add(_float32(both, column), labels, weights)
        rankings = Rankings(RankingPolicy("request_id"), evaluation, Groups())
        rankings.add(both, 0, _float32(both, column), labels, Places())
        metrics = evaluation.total().with_ranking(rankings.settled().total())
        found.append(Measured(role, metrics, reliability(role, _float32(both, column), labels, weights)))
    return found


def _float32(table: pa.Table, column: str) -> Float32:
    numbers: Float32 = table.column(column).to_numpy().astype(np.float32)
    return numbers
