"""Examples of 39 categorical features, in the form that each learner reads, and how losses must agree."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from dovetail.trainer.samples.encoding import Encoder, InputSpec

EXAMPLES, BITS = 100_000, 22


def encoder_of(table: pa.Table) -> Encoder:
    """The encoder of all columns but the label."""
    return Encoder([InputSpec(name) for name in table.column_names if name != "clicked"], BITS)


def prepare(folder: Path, scale: float) -> tuple[int, str]:
    """The examples of ``benchmarks/training.py``: as columns, as slots and as Vowpal Wabbit's text of both."""
    table = importlib.import_module("benchmarks.training").zipf_samples(int(EXAMPLES * scale))
    slots = np.ascontiguousarray(encoder_of(table).encode(table).slots[:, :-1])  # the last is the bias
    labels = table.column("clicked")
    feather.write_feather(table, str(folder / "columns.arrow"), compression="uncompressed")
    integers = pa.FixedSizeListArray.from_arrays(pa.array(slots.reshape(-1)), slots.shape[1])
    feather.write_feather(
        pa.table({"slots": integers, "clicked": labels}), str(folder / "slots.arrow"), compression="uncompressed"
    )
    inputs = [name for name in table.column_names if name != "clicked"]
    columns = [[f"{name}={value}" for value in table.column(name).to_pylist()] for name in inputs]
    _write_text(folder / "integers.vw", slots.tolist(), labels)
    _write_text(folder / "names.vw", zip(*columns, strict=True), labels)
    return len(labels), (
        f"{len(labels):,} examples of {len(inputs)} categorical features, 2^{BITS} slots, no bias: alpha 0.1, beta 1, "
        "l1 = l2 = 0.1. Each example is predicted before it is trained on."
    )


def _write_text(path: Path, rows: Iterable[Iterable[object]], labels: pa.ChunkedArray) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, label in zip(rows, labels.to_pylist(), strict=True):
            file.write(f"{1 if label else -1} | {' '.join(map(str, row))}\n")


def same_loss(ours: pa.Table, theirs: pa.Table) -> str:
    """The losses are within a hundredth of each other, over as many examples."""
    (mine,), (other,) = ours.to_pylist(), theirs.to_pylist()
    apart = other["loss"] / mine["loss"] - 1
    if other["examples"] != mine["examples"] or abs(apart) > 0.01:
        raise DifferentError(f"{other} where Dovetail has {mine}")
    return f"progressive log-loss {other['loss']:.5f}, Dovetail {mine['loss']:.5f}: {apart:+.3%}"


class DifferentError(Exception):
    """A learner does not learn the same."""
