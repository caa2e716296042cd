"""The messages of a mini-batch between splitter, shards and reducer, as Arrow.

Batches are numbered from 1. All that concerns one batch carries its number, so that a repetition is known as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.trainer.arithmetic import Float32, Int32, UInt8, UInt32
from dovetail.trainer.sharded.dealt_rows import (
    BatchPredictions,
    BatchSamples,
    predictions_batch,
    read_predictions,
    read_samples,
    samples_batch,
)
from dovetail.trainer.sharded.evaluated_rows import (
    BatchRows,
    Verdict,
    read_rows,
    read_verdict,
    rows_batch,
    verdict_batch,
)

__all__ = [
    "NO_SHARD", "BatchErrors", "BatchHeader", "BatchMessage", "BatchPart", "ModelPiece", "PartWeights", "decode",
    "encode",
]  # fmt: skip

#: In :attr:`BatchHeader.owners`: the input is absent, its value is 0.
NO_SHARD = 255

_NONE = np.empty(0, np.uint32)


class BatchPart(NamedTuple):
    """The inputs of a batch's n examples that one shard keeps: from the splitter to the shard.

    Inputs stand example by example, in their order in the example; those of value 0 are left out. From a worker that
    sums gradients by slot there are no examples: its part is each slot once, and so are its errors.
    """

    number: int
    shard: int
    #: int32 [n + 1]: the inputs of example i are those from ``offsets[i]`` to before ``offsets[i + 1]``. None: each
    #: slot is there once, and what comes back is its gradient.
    offsets: Int32 | None
    #: Their local slots: uint32 [m].
    slots: UInt32
    #: Their values, float32 [m]; None when all are 1.
    values: Float32 | None
    #: Local slots that are forgotten before the batch is predicted.
    forgotten: UInt32 = _NONE
    #: Above 0, the version of the model that is the one after this batch.
    version: int = 0


class BatchHeader(NamedTuple):
    """The rest of a batch: from the splitter to the reducer."""

    number: int
    #: float32 [n].
    labels: Float32
    #: Weights in training, 0 of what is predicted only: float32 [n].
    weights: Float32
    #: The shard of each input: uint8 [n, k], :data:`NO_SHARD` where it is absent.
    owners: UInt8
    #: Columns of inputs that have a value that is neither 0 nor 1: int32 [c].
    columns: Int32
    #: Their values: float32 [n, c].
    values: Float32
    #: How many shards there are: so many answers make a prediction.
    shards: int


class PartWeights(NamedTuple):
    """The weights of a :class:`BatchPart`'s inputs, in its order: from the shard to the reducer."""

    number: int
    shard: int
    #: float32 [m].
    weights: Float32
    #: The last batch that they include.
    applied: int


class BatchErrors(NamedTuple):
    """The common factor of a batch's gradients, (prediction - label)·weight by example: from the reducer to all shards.

    The gradient of an input is this times its value. From a worker to one shard: the gradients of its part's slots.
    """

    number: int
    #: float32 [n], or one per slot of the part.
    errors: Float32


class ModelPiece(NamedTuple):
    """The weights of one shard in one version of the model, those that are not zero."""

    version: int
    shard: int
    #: Slots of the whole model, ascending: uint32 [m].
    slots: UInt32
    #: float32 [m].
    weights: Float32


BatchMessage = (
    BatchPart | BatchHeader | BatchRows | PartWeights | BatchErrors | ModelPiece | Verdict | BatchSamples
    | BatchPredictions
)  # fmt: skip


def encode(message: BatchMessage) -> bytes:
    """``message`` as one Arrow IPC stream; :func:`decode` gives it back, bit for bit."""
    columns: dict[str, pa.Array] = {}
    told: dict[str, int | str] = {}
    match message:
        case BatchPart():
            columns = _part_columns(message, message.offsets)
            told = {"number": message.number, "shard": message.shard, "version": message.version}
        case BatchHeader():
            columns = {"labels": pa.array(message.labels), "weights": pa.array(message.weights)}
            columns["owners"] = _rows(message.owners)
            for column, values in zip(message.columns.tolist(), message.values.T, strict=True):
                columns[f"value {column}"] = pa.array(np.ascontiguousarray(values))
            told = {"number": message.number, "shards": message.shards}
        case PartWeights():
            columns["weights"] = pa.array(message.weights)
            told = {"number": message.number, "shard": message.shard, "applied": message.applied}
        case BatchErrors():
            columns["errors"] = pa.array(message.errors)
            told = {"number": message.number}
        case ModelPiece():
            columns = {"slots": pa.array(message.slots), "weights": pa.array(message.weights)}
            told = {"version": message.version, "shard": message.shard}
        case BatchRows():
            columns, told = rows_batch(message)
        case Verdict():
            columns, told = verdict_batch(message)
        case BatchSamples():
            columns, told = samples_batch(message)
        case BatchPredictions():
            columns, told = predictions_batch(message)
    metadata = {"kind": type(message).__name__, **{name: str(number) for name, number in told.items()}}
    batch = pa.record_batch(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes) -> BatchMessage:
    """The message that :func:`encode` made ``data`` of; its arrays are views of ``data``.

    :raises WireError: it did not.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            batch = reader.read_next_batch()
        metadata = batch.schema.metadata or {}
        kind = metadata[b"kind"].decode()
        told = {name.decode(): text.decode() for name, text in metadata.items() if name != b"kind"}
        return _READERS[kind](batch, told)
    except (pa.ArrowException, KeyError, StopIteration, ValueError) as error:
        raise WireError(f"a message of {len(data)} bytes is none of a sharded model's: {error}") from error


def _part_columns(part: BatchPart, offsets: Int32 | None) -> dict[str, pa.Array]:
    if offsets is None:
        return {"slots": pa.array(part.slots)}
    columns = {"slots": _lists(offsets, part.slots)}
    if part.values is not None:
        columns["values"] = _lists(offsets, part.values)
    if len(part.forgotten):
        ends = np.full(len(offsets), len(part.forgotten), np.int32)
        ends[0] = 0
        columns["forgotten"] = _lists(ends, part.forgotten)
    return columns


def _part(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchPart:
    slots = batch.column("slots")
    told_of = int(told["number"]), int(told["shard"])
    if not pa.types.is_list(slots.type):
        return BatchPart(*told_of, None, slots.to_numpy(), None, version=int(told["version"]))
    names = batch.schema.names
    values = batch.column("values").values.to_numpy() if "values" in names else None
    forgotten = batch.column("forgotten").values.to_numpy() if "forgotten" in names else _NONE
    return BatchPart(
        *told_of, slots.offsets.to_numpy(), slots.values.to_numpy(), values, forgotten, int(told["version"])
    )


def _header(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchHeader:
    labels, weights, owners = (batch.column(name) for name in ("labels", "weights", "owners"))
    valued = [name for name in batch.schema.names if name.startswith("value ")]
    columns = np.array([int(name.removeprefix("value ")) for name in valued], np.int32)
    values = np.empty((len(labels), len(columns)), np.float32)
    for at, name in enumerate(valued):
        values[:, at] = batch.column(name).to_numpy()
    shape = len(labels), owners.type.list_size
    return BatchHeader(
        int(told["number"]), labels.to_numpy(), weights.to_numpy(), owners.values.to_numpy().reshape(shape), columns,
        values, int(told["shards"]),
    )  # fmt: skip


def _weights(batch: pa.RecordBatch, told: Mapping[str, str]) -> PartWeights:
    return PartWeights(
        int(told["number"]), int(told["shard"]), batch.column("weights").to_numpy(), int(told["applied"])
    )


def _errors(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchErrors:
    return BatchErrors(int(told["number"]), batch.column("errors").to_numpy())


def _piece(batch: pa.RecordBatch, told: Mapping[str, str]) -> ModelPiece:
    slots, weights = batch.column("slots").to_numpy(), batch.column("weights").to_numpy()
    return ModelPiece(int(told["version"]), int(told["shard"]), slots, weights)


_READERS: dict[str, Callable[[pa.RecordBatch, Mapping[str, str]], BatchMessage]] = {
    "BatchPart": _part, "BatchHeader": _header, "PartWeights": _weights, "BatchErrors": _errors, "ModelPiece": _piece,
    "BatchRows": read_rows, "Verdict": read_verdict, "BatchSamples": read_samples, "BatchPredictions": read_predictions,
}  # fmt: skip


def _lists(offsets: Int32, values: npt.NDArray[np.generic]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _rows(table: UInt8) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), table.shape[1])
