"""The samples of a batch as they go to the worker that it is dealt to, and the predictions that it makes, as Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from dovetail.trainer.arithmetic import Float32, Float64, Int32
from dovetail.trainer.sharded.evaluated_rows import moments_of, text_of

__all__ = ["BatchPredictions", "BatchSamples", "predictions_batch", "read_predictions", "read_samples", "samples_batch"]


class BatchSamples(NamedTuple):
    """The samples of a batch: from the splitter to the worker that the batch is dealt to."""

    number: int
    #: A message of the topic of batches as it is, which nobody has to decode and encode in between; empty for a batch
    #: of nothing, which is there for its version alone.
    content: bytes
    #: Which rows of the message are the batch, ascending, int32 [n]; None for all.
    chosen: Int32 | None
    #: The moments of standardised inputs before this batch, float64 [inputs, 3].
    moments: Float64
    #: Above 0, the version of the model that is the one after this batch.
    version: int = 0


class BatchPredictions(NamedTuple):
    """The predictions of a batch, made before it was trained on: from a worker to the reducer, after the rows."""

    number: int
    #: float32 [n].
    predictions: Float32
    #: float32 [n].
    labels: Float32


def samples_batch(samples: BatchSamples) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns and the metadata of ``samples``."""
    told = {"number": samples.number, "version": samples.version, "moments": text_of(samples.moments)}
    chosen = pa.array([samples.chosen], pa.list_(pa.int32()))
    return {"content": pa.array([samples.content], pa.binary()), "chosen": chosen}, told


def read_samples(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchSamples:
    """The samples that :func:`samples_batch` was given."""
    content, chosen = batch.column("content")[0].as_py(), batch.column("chosen")
    rows = None if chosen.null_count else chosen.values.to_numpy()
    return BatchSamples(int(told["number"]), content, rows, moments_of(told["moments"]), int(told["version"]))


def predictions_batch(made: BatchPredictions) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns and the metadata of ``made``."""
    return {"predictions": pa.array(made.predictions), "labels": pa.array(made.labels)}, {"number": made.number}


def read_predictions(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchPredictions:
    """The predictions that :func:`predictions_batch` was given."""
    made, labels = (batch.column(name).to_numpy() for name in ("predictions", "labels"))
    return BatchPredictions(int(told["number"]), made, labels)
