"""A sample, put together: keys, features, label, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.contracts import BatchFeatures
from dovetail.joiners.policies import EMISSIONS
from dovetail.joiners.policies.policy import NEVER, Int64
from dovetail.joiners.snapshots.arms import ARM_COLUMNS
from dovetail.joiners.snapshots.shape import request_rows
from dovetail.platform.rows.positions import SOURCE_COLUMNS

__all__ = ["assemble_samples", "known_times"]


def known_times(
    times: tuple[Int64, Int64] | None, rows: Int64, request_time_us: Int64, horizon_us: int
) -> npt.NDArray[np.int64]:
    """Event times (µs) of the labels of ``rows`` that took effect within the horizon, NEVER for the others."""
    if times is None:
        return np.full(len(rows), NEVER, dtype=np.int64)
    effective, event = times[0][rows], times[1][rows]
    return np.where(effective <= request_time_us[rows] + horizon_us, event, NEVER)


def assemble_samples(
    chosen: pa.Table,
    features: BatchFeatures,
    *,
    label: npt.NDArray[np.int8],
    weight: npt.NDArray[np.float32],
    emission: npt.NDArray[np.int8],
    extra: Mapping[str, np.ma.MaskedArray[tuple[int], np.dtype[np.int16]]],
    times: Mapping[str, npt.NDArray[np.int64]],
    values: Mapping[str, pa.Array],
) -> pa.Table:
    """Samples of ``chosen`` snapshot rows, which have source positions already.

    Columns: request_id, item_id, request_time; the feature set's columns, of which those that candidates of a request
    share are in the row of the first, as in ``chosen``; label int8, weight float32, emission
    (string, one of EMISSIONS); the policy's own int16 columns; ``<kind>_time`` per kind; ``values``, the columns of
    labels; score, model_version; of snapshots of an experiment, experiment, arm and arm_draw; source positions.
    ``times`` int64 µs, NEVER for NULL.
    """
    complete = features.complete(request_rows(chosen), chosen)
    columns = {name: chosen.column(name) for name in ("request_id", "item_id", "request_time")}
    columns |= {name: complete.column(name) for name in complete.column_names if name not in columns}
    columns["label"] = pa.array(label, pa.int8())
    columns["weight"] = pa.array(weight, pa.float32())
    columns["emission"] = pa.array(EMISSIONS, pa.string()).take(pa.array(emission))
    for name, ages in extra.items():
        columns[name] = pa.array(ages.data, pa.int16(), mask=np.ma.getmaskarray(ages))
    for kind, event in times.items():
        none = event == NEVER
        columns[f"{kind}_time"] = pa.array(np.where(none, 0, event), pa.int64(), mask=none).cast(pa.timestamp("us"))
    columns |= values
    columns |= {name: chosen.column(name) for name in ("score", "model_version")}
    for name in ARM_COLUMNS:  # as recorded: what the split says today is not what it said then
        if name in chosen.column_names:
            columns.setdefault(name.removeprefix("_"), chosen.column(name))
    columns |= {name: chosen.column(name) for name in SOURCE_COLUMNS}
    return pa.table(columns)
