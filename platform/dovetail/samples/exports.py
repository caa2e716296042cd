"""Samples as files that other trainers read: lines of libsvm, and TFRecord files of ``tf.train.Example``.

Both formats are a page long and their writers are here; nothing is needed beside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.compiling import compiled
from dovetail.platform.errors import ConfigError
from dovetail.samples.tensors import Columns, arrays_of

__all__ = ["crc32c", "write_libsvm", "write_tfrecord"]

_MASK_DELTA = 0xA282EAD8
_LENGTH_DELIMITED = 2


def write_libsvm(batches: Iterable[pa.Table], columns: Columns, path: str | Path) -> int:
    """Write samples as lines ``label index:value …``; returns how many.

    Indexes ascend from 1: the dense columns in their order, then the hashed values, each ``1 + len(dense) + value``,
    with the number of times a row has it. Zeros are left out.

    Raises:
        ConfigError: sequences or several labels, which the format has not, or a sample without a label.
    """
    if columns.sequences or not isinstance(columns.label, str):
        raise ConfigError("libsvm has one label and no sequences: give such columns to a TFRecord file")
    written = 0
    with Path(path).open("wb") as file:
        for rows in batches:
            for line in _lines(arrays_of(rows, columns), columns):
                file.write(line.encode() + b"\n")
            written += rows.num_rows
    return written


def _lines(arrays: dict[str, Any], columns: Columns) -> list[str]:
    label = arrays["label"]
    if np.isnan(label).any():
        raise ConfigError(f"sample {int(np.isnan(label).argmax())} of a batch has no {columns.label}, its label")
    numbers = np.arange(len(label))
    row, index, value = [], [], []
    if columns.dense:
        row.append(np.repeat(numbers, len(columns.dense)))
        index.append(np.tile(np.arange(1, len(columns.dense) + 1), len(label)))
        value.append(arrays["dense"].reshape(-1))
    for values, lengths in arrays["sparse"].values():
        row.append(np.repeat(numbers, lengths))
        index.append(values + len(columns.dense) + 1)
        value.append(np.ones(len(values), dtype=np.float32))
    if not row:
        return [str(each) for each in pa.array(label).cast(pa.string()).to_pylist()]
    return _joined(label, *(np.concatenate(each) for each in (row, index, value)))


def _joined(
    label: npt.NDArray[np.float32],
    row: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    value: npt.NDArray[np.float32],
) -> list[str]:
    order = np.lexsort((index, row))
    row, index, value = row[order], index[order], value[order]
    first = np.ones(len(row), dtype=np.bool_)
    first[1:] = (row[1:] != row[:-1]) | (index[1:] != index[:-1])
    value = np.add.reduceat(value, np.flatnonzero(first)) if len(value) else value
    row, index = row[first], index[first]
    kept = value != 0
    row, index, value = row[kept], index[kept], value[kept]
    pairs = pc.binary_join_element_wise(pa.array(index).cast(pa.string()), pa.array(value).cast(pa.string()), ":")
    starts = np.searchsorted(row, np.arange(len(label) + 1)).astype(np.int32)
    inputs = pc.binary_join(pa.ListArray.from_arrays(pa.array(starts), pairs), " ")
    labels = pa.array(label).cast(pa.string())
    return [line.rstrip() for line in pc.binary_join_element_wise(labels, inputs, " ").to_pylist()]


def write_tfrecord(batches: Iterable[pa.Table], columns: Columns, path: str | Path) -> int:
    """Write samples as ``tf.train.Example`` records; returns how many.

    Each has ``label``, ``weight`` and ``dense`` as floats, and of each sparse or sequence column its name with the
    integers (numeric sequences: floats) of the row, padded where a length is declared. Labels are floats.

    Raises:
        ConfigError: a sequence is to be there once per request: a record is one sample.
    """
    if columns.per_request:
        raise ConfigError("a record of TFRecord is one sample: leave per_request out, or export Parquet")
    written = 0
    with Path(path).open("wb") as file:
        for rows in batches:
            for example in _examples(arrays_of(rows, columns), rows.num_rows):
                _write_record(file, example)
            written += rows.num_rows
    return written


def _examples(arrays: dict[str, Any], count: int) -> Iterator[bytes]:
    lists: dict[str, list[npt.NDArray[Any]]] = {
        name: list(np.atleast_2d(arrays[name].reshape(count, -1))) if count else []
        for name in ("label", "weight", "dense")
        if name in arrays
    }
    for name, (values, lengths) in (*arrays["sparse"].items(), *arrays["sequences"].items()):
        lists[name] = list(values) if values.ndim > 1 else np.split(values, np.cumsum(lengths)[:-1])
    for row in range(count):
        features = b"".join(
            _field(1, _field(1, name.encode()) + _field(2, _feature(rows[row]))) for name, rows in lists.items()
        )
        yield _field(1, features)


def _feature(values: npt.NDArray[Any]) -> bytes:
    """A Feature: floats as a packed FloatList, integers as a packed Int64List."""
    if values.dtype == np.float32:
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(each) for each in values.tolist())))


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _write_record(file: BinaryIO, data: bytes) -> None:
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked(crc32c(length))) + data + struct.pack("<I", _masked(crc32c(data))))


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of ``data``."""
    return int(_crc32c(np.frombuffer(data, np.uint8), _TABLE))


def _table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_TABLE = _table()


@compiled
def _crc32c(data: npt.NDArray[np.uint8], table: npt.NDArray[np.uint32]) -> np.uint32:
    crc = np.uint32(0xFFFFFFFF)
    for at in range(len(data)):
        crc = table[(crc ^ np.uint32(data[at])) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)
