"""Snapshot rows, made of candidates, their features and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.contracts import Served, ServingModel
from dovetail.joiners.snapshots.arms import Experiment
from dovetail.joiners.snapshots.shape import KEYS, MEANING_COLUMN, REQUEST_COLUMN, SET_COLUMN
from dovetail.platform.rows.encodings.shared import share
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, seen_column, with_source_positions

__all__ = ["ServingModels", "snapshot_rows"]


class ServingModels(NamedTuple):
    """The model that scores, the shadow beside it if there is one, and the experiment that requests are split by."""

    scorer: ServingModel
    shadow: ServingModel | None
    experiment: Experiment | None = None

    def refresh(self) -> None:
        """See that each is the newest that it is to serve."""
        for one in (self.scorer, self.shadow, self.experiment):
            if one is not None:
                one.refresh()


def snapshot_rows(
    candidates: pa.Table,
    served: Served,
    answerable: npt.NDArray[np.bool_],
    models: ServingModels,
    feature_set: str,
    meaning: int | None = None,
) -> pa.Table:
    """Snapshot rows of the ``candidates``, which are the ``answerable`` ones of those ``served``, scored.

    ``feature_set`` is the name that the rows carry, ``meaning`` the mark of the label meaning that they are judged by.
    Lists, maps and structs that the candidates of a request share are
    in the row of its first (``rows/encodings/shared.py``).
    """
    encoded = served.encoded if answerable.all() else served.encoded.filter(pa.array(answerable))
    own = [name for name in candidates.column_names if name not in (*KEYS, *OWN_COLUMNS, *SOURCE_COLUMNS)]
    struct = pa.StructArray.from_arrays([candidates.column(name).combine_chunks() for name in own], names=own)
    columns = {name: candidates.column(name) for name in KEYS}
    columns[REQUEST_COLUMN] = pa.chunked_array([struct])
    features = share(encoded.select([name for name in served.snapshot_columns if name not in columns]))
    columns |= {name: features.column(name) for name in features.column_names}
    columns |= _scores(candidates, encoded, models)
    if models.shadow is not None:
        version, scores = models.shadow.score(encoded)
        none = np.full(len(candidates), version == 0)
        columns["shadow_score"] = pa.chunked_array([pa.array(scores, pa.float32(), mask=none)])
        columns["shadow_version"] = pa.chunked_array(
            [pa.array(np.full(len(candidates), version), pa.int64(), mask=none)]
        )
    columns[SET_COLUMN] = _constant(pa.scalar(feature_set), len(candidates))
    if meaning is not None:
        columns[MEANING_COLUMN] = _constant(pa.scalar(meaning, pa.int64()), len(candidates))
    for view, offsets in served.seen.items():
        columns[seen_column(view)] = _constant_list(offsets, len(candidates))
    columns |= {name: candidates.column(name) for name in OWN_COLUMNS}
    return with_source_positions(pa.table(columns))


def _scores(candidates: pa.Table, encoded: pa.Table, models: ServingModels) -> dict[str, pa.ChunkedArray]:
    """Score and version; of a running experiment those of each row's arm, and which arm that is."""
    if models.experiment is None:
        version, scores = models.scorer.score(encoded)
        versions = _constant(pa.scalar(version, pa.int64()), len(candidates))
        arms: dict[str, pa.ChunkedArray] = {}
    else:
        users = candidates.column(models.experiment.split.by)
        each, scores, arms = models.experiment.score(encoded, users, models.scorer)
        versions = pa.chunked_array([pa.array(each, pa.int64())])
    return {"score": pa.chunked_array([pa.array(scores, pa.float32())]), "model_version": versions, **arms}


def _constant(value: pa.Scalar, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(value, rows)])


def _constant_list(values: Sequence[int], rows: int) -> pa.ChunkedArray:
    """The list of ``values`` in each of ``rows``: :func:`pyarrow.repeat` concatenates lists one by one, 0.2 us each."""
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(len(values))
    repeated = np.tile(np.array(values, dtype=np.int64), rows)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(ends), pa.array(repeated))])
