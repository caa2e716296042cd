"""Samples of others come in, models go out; text means what its own tools say it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.exporting import FORMATS, export_model, import_weights
from dovetail.trainer.models.publish import Model
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.samples.importing import (
    FEATURES,
    SCHEMA,
    read_libsvm,
    read_parquet,
    read_vw,
)


def rows(tables: Iterator[pa.Table]) -> list[tuple[int, float, list[tuple[str, float]]]]:
    found = []
    for table in tables:
        assert table.schema == SCHEMA
        found += [
            (row["label"], row["weight"], [(f["name"], f["value"]) for f in row[FEATURES]]) for row in table.to_pylist()
        ]
    return found


def test_libsvm_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.svm"
    file.write_text("+1 3:0.5 7:1 # why\n\n# nothing\n-1 2:-1e-3\n0\n", encoding="utf-8")
    assert rows(read_libsvm(file)) == [
        (1, 1.0, [("3", 0.5), ("7", 1.0)]),
        (0, 1.0, [("2", pytest.approx(-1e-3))]),
        (0, 1.0, []),
    ]
    assert rows(read_libsvm(file, rows=1)) == rows(read_libsvm(file))


def test_libsvm_as_scikit_learn_writes_it(tmp_path: Path) -> None:
    from sklearn.datasets import dump_svmlight_file

    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 6)) * (rng.random((20, 6)) < 0.5)
    y = rng.integers(0, 2, 20)
    dump_svmlight_file(x, y, str(tmp_path / "x.svm"), zero_based=True)
    found = rows(read_libsvm(tmp_path / "x.svm"))
    assert [label for label, _, _ in found] == y.tolist()
    for (_, _, features), mine in zip(found, x, strict=True):
        assert dict(features) == {str(i): pytest.approx(v) for i, v in enumerate(mine) if v}


def test_vowpal_wabbit_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.vw"
    file.write_text(
        "1 2.0 'tag|user:0.5 id=7 age:30 |ad x\n-1 |  a b:2\n+1 'only_a_tag| c\n0 0.25|empty |q w\n", encoding="utf-8"
    )
    assert rows(read_vw(file)) == [
        (1, 2.0, [("user^id=7", 0.5), ("user^age", 15.0), ("ad^x", 1.0)]),
        (0, 1.0, [("a", 1.0), ("b", 2.0)]),
        (1, 1.0, [("c", 1.0)]),
        (0, 0.25, [("q^w", 1.0)]),
    ]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_libsvm, "1 2:3\nyes 1:1\n", r"x:2: its label is 'yes', not a number; correct the line or remove it"),
        (read_libsvm, "1 2:1_0\n", r"x:1: its value is '1_0', not a number"),
        (read_libsvm, "1 2:x\n", r"x:1: its value is 'x', not a number"),
        (read_libsvm, "1 2:3:4\n", r"x:1: '2:3:4' is no `name` or `name:value`"),
        (read_vw, "# c\n | a\n", r"x:2: its part before the first bar is not `label \[importance\] \['tag\]`"),
        (read_vw, "1 1 0.5 | a\n", "its part before the first bar"),
        (read_vw, "1 | a:b\n", "its value is 'b', not a number"),
        (read_vw, "1 |n:s a\n", "its namespace scale is 's', not a number"),
        (read_vw, "1 heavy | a\n", "its importance is 'heavy', not a number"),
    ],
)
def test_broken_lines_are_named(
    tmp_path: Path, read: Callable[[Path], Iterator[pa.Table]], text: str, message: str
) -> None:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    with pytest.raises(WireError, match=message):
        list(read(tmp_path / "x"))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="cannot be read"):
        list(read_libsvm(tmp_path / "none"))
    with pytest.raises(WireError, match="there is no Parquet file"):
        list(read_parquet([tmp_path]))
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(WireError, match=r"x\.parquet: cannot be read as Parquet"):
        list(read_parquet([tmp_path]))


def test_text_trains_a_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(0, 20, 3000)
    lines = [f"{1 if rng.random() < word / 20 else -1} | w{word}" for word in words]
    (tmp_path / "x.vw").write_text("\n".join(lines), encoding="utf-8")
    from dovetail.trainer.optimizers.ftrl import Ftrl

    learner = Learner(Encoder([InputSpec(FEATURES, "list", length=1)], 18), Ftrl(), label="label", weight="weight")
    for table in read_vw(tmp_path / "x.vw"):
        learner.learn(table)
    assert (learner.evaluation.total().auc or 0) > 0.8


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_holds_every_weight_exactly(
    tmp_path: Path, new_learner: Callable[[], Learner], samples: Callable[[int], pa.Table], format_: str
) -> None:
    learner = new_learner()
    learner.learn(samples(200))
    model = Model.of(learner)
    file = tmp_path / f"model.{format_}"
    assert export_model(model, 7, file, format_) == len(model.slots)
    if format_ == "text":
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        assert '"version": 7' in first
        pairs = [line.split(":") for line in lines]
        assert [int(slot) for slot, _ in pairs] == model.slots.tolist()
        assert np.array([w for _, w in pairs], np.float32).tobytes() == model.weights.tobytes()
        return
    back = import_weights(file)
    assert back.dense().tobytes() == model.dense().tobytes()
    assert back._replace(slots=model.slots, weights=model.weights, moments=model.moments) == model
    assert Encoder.from_description(back.encoder or {}).fingerprint == model.fingerprint


def test_wrong_exports_are_refused(tmp_path: Path, new_learner: Callable[[], Learner]) -> None:
    with pytest.raises(ConfigError, match="exported as parquet, arrow, text, not 'onnx'"):
        export_model(Model.of(new_learner()), 1, tmp_path / "x", "onnx")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ModelError, match="not an exported model"):
        import_weights(tmp_path / "x.parquet")
    description = {**new_learner().encoder.describe(), "hash": "murmur"}
    with pytest.raises(ConfigError, match="encoder is of format 1 with hash murmur"):
        Encoder.from_description(description)
