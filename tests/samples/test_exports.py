"""Samples as files of libsvm and TFRecord: what a reader of the format finds in them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.samples.exports import crc32c, write_libsvm, write_tfrecord
from dovetail.samples.tensors import Columns, Sequences, arrays_of
from tests.samples.test_tensors import ROWS

LABELLED = ROWS.set_column(0, "label", pa.array([0, 1, 1], pa.int8()))


def test_libsvm_is_read_as_it_was_meant(tmp_path: Path) -> None:
    from sklearn.datasets import load_svmlight_file

    columns = Columns(dense=["price", "clicks"], sparse=["city", "tags"], bits=8)
    assert write_libsvm([LABELLED.slice(0, 2), LABELLED.slice(2)], columns, tmp_path / "s.svm") == 3
    found, labels = load_svmlight_file(str(tmp_path / "s.svm"), n_features=2 + 256)
    arrays = arrays_of(LABELLED, columns)
    wanted = np.zeros((3, 2 + 256))
    wanted[:, :2] = arrays["dense"]
    for values, lengths in arrays["sparse"].values():
        np.add.at(wanted, (np.repeat(np.arange(3), lengths), 2 + values), 1)
    assert labels.tolist() == [0, 1, 1]
    # Shortest digits of float32: another precision reads other bits.
    assert np.array_equal(found.toarray().astype(np.float32), wanted.astype(np.float32))


def test_libsvm_refuses_what_it_has_no_place_for(tmp_path: Path) -> None:
    for columns in (Columns(sequences=[Sequences("seen")]), Columns(label=["label", "paid"])):
        with pytest.raises(ConfigError, match="give such columns to a TFRecord file"):
            write_libsvm([LABELLED], columns, tmp_path / "s.svm")
    with pytest.raises(ConfigError, match="sample 2 of a batch has no label"):
        write_libsvm([ROWS], Columns(dense=["price"]), tmp_path / "s.svm")
    assert write_libsvm([LABELLED], Columns(), tmp_path / "bare.svm") == 3
    assert (tmp_path / "bare.svm").read_text() == "0\n1\n1\n"


def test_a_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        assert key & 7 == 2
        length, at = _varint(data, at)
        found.append((key >> 3, data[at : at + length]))
        at += length
    return found


def _features(example: bytes) -> dict[str, list[Any]]:
    """A ``tf.train.Example`` by the wire format of protocol buffers."""
    ((number, features),) = _fields(example)
    assert number == 1
    found: dict[str, list[Any]] = {}
    for _, entry in _fields(features):
        name, feature = (each for _, each in _fields(entry))
        ((kind, values),) = _fields(feature)
        ((_, packed),) = _fields(values)
        if kind == 2:
            found[name.decode()] = list(struct.unpack(f"<{len(packed) // 4}f", packed))
        else:
            numbers, at = [], 0
            while at < len(packed):
                number, at = _varint(packed, at)
                numbers.append(number)
            found[name.decode()] = numbers
    return found


def test_tfrecords_are_read_as_they_were_meant(tmp_path: Path) -> None:
    columns = Columns(
        dense=["price", "clicks"],
        sparse=["city"],
        sequences=[Sequences("seen", length=2, numeric=True), Sequences("tags")],
    )
    assert write_tfrecord([LABELLED], columns, tmp_path / "s.tfrecord") == 3
    data, at, examples = (tmp_path / "s.tfrecord").read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        payload = data[at + 12 : at + 12 + length]
        for part, place in ((data[at : at + 8], at + 8), (payload, at + 12 + length)):
            crc = crc32c(part)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack_from("<I", data, place) == (masked,)
        examples.append(_features(payload))
        at += 16 + length
    arrays = arrays_of(LABELLED, columns)
    assert [one["label"] for one in examples] == [[0.0], [1.0], [1.0]]
    assert [one["weight"] for one in examples] == [[1.0], [0.5], [1.0]]
    assert [one["dense"] for one in examples] == arrays["dense"].tolist()
    assert [one["seen"] for one in examples] == arrays["sequences"]["seen"][0].tolist()
    values, lengths = arrays["sequences"]["tags"]
    assert [one["tags"] for one in examples] == [v.tolist() for v in np.split(values, np.cumsum(lengths)[:-1])]
    assert [one["city"][0] for one in examples] == arrays["sparse"]["city"][0].tolist()
