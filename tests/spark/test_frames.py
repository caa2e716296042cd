"""Rows come out of frames as they went in: whole, and in order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.spark import frames
from dovetail.spark.frames import EVENTS, FRAME, PROBES, Frame, Held, Outbox, batches, opened, rows_of

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.string(), "amount": pa.decimal128(9, 2), "seen": pa.list_(pa.int64())})


def rows(low: int, high: int) -> pa.Table:
    made = [{"n": n, "text": None if n % 3 else f"t{n}", "amount": n, "seen": [n] * (n % 3)} for n in range(low, high)]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def test_rows_go_where_they_are_sent_in_the_order_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frames, "_ROWS", 7)
    monkeypatch.setattr(frames, "_GATHERED", 50)
    boxes = [Outbox(EVENTS, 2), Outbox(EVENTS, 1)]
    sent: list[Frame] = []
    for box in boxes:
        for low in range(0, 90, 30):
            part = rows(low, low + 30)
            sent += box.put(part, np.arange(low, low + 30) % 4)
        sent += box.rest()
        assert list(box.rest()) == []
    assert {frame.to for frame in sent} == {0, 1, 2, 3}
    assert max(rows_of(frame, SCHEMA).num_rows for frame in sent) == 7
    held = Held(tmp_path)
    for frame in opened(batches(reversed([frame for frame in sent if frame.to == 3]))):
        held.put(frame)
    mine = [n for n in range(90) if n % 4 == 3]
    assert held.rows(EVENTS, SCHEMA).equals(rows(0, 90).take([*mine]).take([*range(len(mine))] * 2))
    assert held.rows(PROBES, SCHEMA).num_rows == 0
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_frames_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_BYTES", 100)
    given = [Frame(0, EVENTS, 0, n, b"x" * 40) for n in range(10)]
    cut = list(batches(given))
    assert [batch.num_rows for batch in cut] == [3, 3, 3, 1]
    assert all(batch.schema == FRAME for batch in cut)
    assert list(opened(cut)) == given
    assert Frame.of(3, EVENTS, {"a": (1, None)}).value() == {"a": (1, None)}


def test_without_pyspark_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from dovetail.spark.session import open_cluster

    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(
        ConfigError, match=r"needs PySpark, pandas and Java 17: pip install 'dovetail-samples\[spark\]'"
    ):
        open_cluster("local[1]")
