"""Models for others: the non-zero weights as Arrow, Parquet or text; and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.models.publish import Model

__all__ = ["FORMATS", "export_model", "import_weights"]

#: What :func:`export_model` writes.
FORMATS = ("parquet", "arrow", "text")
_KEY = b"dovetail"


def export_model(model: Model, version: int, path: Path, format_: str) -> int:
    """Write the non-zero weights of ``model`` to ``path``; returns how many there are.

    ``parquet`` and ``arrow`` (an IPC file) have the columns ``slot`` uint32 and ``weight`` float32, and in the schema's
    metadata, under ``dovetail``, a JSON object with version, fingerprint, bits, trained, encoder and moments. ``text``
    has that object in a first line that begins with ``#``, then one ``slot:weight`` per line: libsvm's notation, and
    what Vowpal Wabbit reads as the features of an unnamed namespace. Weights are written so that they read back
    exactly.

    It is a serving export: optimizer state is not in it, and training that starts from it is a hot start.

    :raises ConfigError: there is no such format.
    """
    description = json.dumps(
        {
            "version": version, "fingerprint": model.fingerprint, "bits": model.bits, "trained": model.trained,
            "encoder": model.encoder, "moments": model.moments.tolist(), "can_resume": False,
        }, sort_keys=True,
    )  # fmt: skip
    table = pa.table({"slot": model.slots, "weight": model.weights}).replace_schema_metadata({_KEY: description})
    if format_ == "parquet":
        pq.write_table(table, path, compression="zstd")
    elif format_ == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    elif format_ == "text":
        lines = [f"{slot}:{weight!s}" for slot, weight in zip(model.slots.tolist(), model.weights, strict=True)]
        path.write_text("\n".join([f"# {description}", *lines]) + "\n", encoding="utf-8")
    else:
        raise ConfigError(f"models are exported as {', '.join(FORMATS)}, not {format_!r}")
    return len(model.slots)


def import_weights(path: Path) -> Model:
    """The model that :func:`export_model` wrote as Parquet or Arrow.

    :raises ModelError: it is not such a file.
    """
    try:
        table = pa.ipc.open_file(path).read_all() if path.suffix == ".arrow" else pq.read_table(path)
        description: dict[str, Any] = json.loads((table.schema.metadata or {})[_KEY])
        slots, weights = (table.column(name).to_numpy() for name in ("slot", "weight"))
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ModelError(f"{path}: not an exported model ({error!r}); write it with `dovetail model export`") from error
    return Model(
        description["fingerprint"],
        description["bits"],
        description["trained"],
        slots.astype(np.uint32),
        weights.astype(np.float32),
        np.array(description["moments"], np.float64).reshape(-1, 3),
        description["encoder"],
    )
