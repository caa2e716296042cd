"""Models of ONNX files: fed with features, replaced while they serve, gated, and said where they cannot serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dovetail.onnx import OnnxFile, OnnxModel, OnnxScorer
from dovetail.platform.errors import ModelError
from dovetail.trainer.models.beside import LoadedBeside
from tests.onnx.made_models import INT64, STRING, linear

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'dovetail-samples[onnx]'")

FEATURES = pa.schema(
    [
        ("clicks", pa.int64()),
        ("price", pa.decimal128(9, 2)),
        ("new", pa.bool_()),
        ("user", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)
INPUTS: dict[str, tuple[str, ...]] = {"features": ("clicks", "price", "new")}
ROWS = pa.table(
    {
        "clicks": [1, 4, None, 0],
        "price": pa.array(["1.50", None, "2.00", "-3.25"]).cast(pa.decimal128(9, 2)),
        "new": [True, False, True, None],
        "user": ["u", None, "v", ""],
        "tags": [["a"], [], None, ["b"]],
    },
    schema=FEATURES,
)
ONE = ROWS.slice(0, 1)


def sigmoid(margins: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(margins, np.float64)))


def test_a_model_is_fed_its_columns_in_their_order() -> None:
    model = OnnxModel(linear([0.5, -1.0, 2.0], 0.25), FEATURES, INPUTS, missing=0.0)
    assert model.score(ONE) == pytest.approx(sigmoid([0.5 * 1 - 1.5 + 2.0 + 0.25]), abs=1e-6)
    swapped = OnnxModel(linear([0.5, -1.0, 2.0], 0.25), FEATURES, {"features": ("price", "new", "clicks")}, missing=0.0)
    assert swapped.score(ONE) == pytest.approx(sigmoid([0.5 * 1.5 - 1.0 + 2.0 + 0.25]), abs=1e-6)
    assert model.score(ROWS.slice(0, 0)).shape == (0,)


def test_inputs_are_the_columns_of_their_names_and_null_is_zero_for_integers() -> None:
    model = OnnxModel(linear([1.0, 1.0], inputs=("clicks", "new"), element=INT64), FEATURES)
    assert model.score(ROWS) == pytest.approx(sigmoid([2.0, 4.0, 1.0, 0.0]), abs=1e-6)


def test_null_is_what_is_declared_and_a_model_that_says_nan_is_not_taken() -> None:
    content = linear([1.0], inputs=("clicks",))
    with pytest.raises(ModelError, match=r"it says nan for a row: scores must be finite; .*\[scorer\] missing = 0.0"):
        OnnxModel(content, FEATURES)
    model = OnnxModel(content, FEATURES, missing=-2.0)
    assert model.score(ROWS) == pytest.approx(sigmoid([1.0, 4.0, -2.0, 0.0]), abs=1e-6)


def test_columns_may_come_as_dictionaries() -> None:
    shared = ROWS.set_column(0, "clicks", pa.array([3, 3, 3, 3]).dictionary_encode())
    model = OnnxModel(linear([1.0], inputs=("clicks",), element=INT64), FEATURES)
    assert model.score(shared) == pytest.approx(sigmoid([3.0] * 4), abs=1e-6)


THREE = linear([1.0, 1.0, 1.0])
UNFIT: dict[str, tuple[bytes, dict[str, tuple[str, ...]], str, str]] = {
    "text": (b"no model", {}, "", "it is no ONNX model that can be run here"),
    "torn": (THREE[:-40], INPUTS, "", "it is no ONNX model that can be run here"),
    "no column": (THREE, {}, "", "its input 'features' needs a column 'features', which the features have not"),
    "columns": (linear([1.0, 1.0]), INPUTS, "", "its input 'features' takes 2 columns, 3 are declared"),
    "text for a number": (linear([1.0], inputs=("user",)), {}, "", r"column 'user' is string; cast it in the feature"),
    "a list": (linear([1.0], inputs=("tags",), element=INT64), {}, "", r"column 'tags' is list<.*>; cast"),
    "element": (linear([1.0], inputs=("price",), element=STRING), {}, "", "column 'price' is decimal"),
    "fixed rows": (linear([1.0, 1.0, 1.0], rows=1), INPUTS, "", "export it with a dynamic first axis"),
    "no input": (THREE, {**INPUTS, "more": ("clicks",)}, "", "it has no input 'more'; it has features"),
    "no output": (THREE, INPUTS, "probability", "it has no output 'probability'; it has score"),
    "a class": (linear([1.0] * 3, outputs=("score", "label")), INPUTS, "label", r"say \[scorer\] output = 'score'"),
}


@pytest.mark.parametrize(("content", "inputs", "output", "why"), UNFIT.values(), ids=list(UNFIT))
def test_a_model_that_does_not_fit_says_why(content: bytes, inputs: Any, output: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        OnnxModel(content, FEATURES, inputs, output)


def test_a_model_bears_its_version_or_gets_one_of_its_content() -> None:
    weights = [1.0, 1.0, 1.0]
    assert OnnxModel(linear(weights, version=17), FEATURES, INPUTS, missing=0.0).version == 17
    first, second, again = (
        OnnxModel(linear(weights, bias), FEATURES, INPUTS, missing=0.0).version for bias in (0.0, 1.0, 0.0)
    )
    assert first == again != second
    assert 0 < first < 1 << 48


class Place:
    """A file of a model, and scorers of it that remember in one folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.folder = folder / "ranker.onnx", folder
        self.damaged: list[int] = []

    def put(self, content: bytes) -> None:
        draft = self.folder / "draft"
        draft.write_bytes(content)
        draft.replace(self.path)

    def scorer(self, judge: Any = None) -> OnnxScorer:
        kept = self.folder / "state" / "kept.onnx"
        told = self.damaged.append
        return OnnxScorer(OnnxFile(self.path, INPUTS, missing=0.0), FEATURES, kept=kept, judge=judge, on_damaged=told)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_new_file_is_taken_up_as_a_whole_and_a_damaged_one_is_not(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = place.scorer()
    assert not scorer.refresh()
    assert [scorer.score(ONE)[0], *scorer.score(ONE)[1].tolist()] == [0, 0.5]
    place.put(linear([1.0, 0.0, 0.0], version=1))
    assert [scorer.refresh(), scorer.refresh()] == [True, False]
    assert scorer.score(ONE)[1] == pytest.approx(sigmoid([1.0]), abs=1e-6)
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        place.put(linear([2.0, 0.0, 0.0], version=2)[:-30])
        assert [scorer.refresh(), scorer.refresh()] == [False, False]
    [said] = [record.getMessage() for record in caplog.records if "not taken up" in record.getMessage()]
    assert "version 1 serves" in said
    assert str(place.path) in said
    assert scorer.score(ONE)[0] == 1
    place.put(linear([2.0, 0.0, 0.0], version=3))
    assert scorer.refresh()
    assert (scorer.version, place.damaged) == (3, [1, 0, 1, 0])


def test_after_a_start_the_last_whole_model_serves_while_the_file_is_damaged(place: Place) -> None:
    place.put(linear([1.0, 0.0, 0.0], version=1))
    place.scorer().refresh()
    place.put(b"damaged")
    again = place.scorer()
    assert again.refresh()
    assert again.version == 1
    place.path.unlink()
    gone = place.scorer()
    assert gone.refresh()
    assert gone.version == 1
    place.put(linear([1.0, 0.0, 0.0], version=2))
    assert again.refresh()
    assert again.version == 2


def test_a_candidate_out_of_bounds_does_not_serve_and_one_that_served_is_not_judged_again(place: Place) -> None:
    judged: list[float] = []

    def judge(score: Any) -> list[str]:
        judged.append(float(score(ONE)[0]))
        return ["auc is 0.5, at least 0.6 is asked"] if judged[-1] < 0.5 else []

    place.put(linear([1.0, 0.0, 0.0], version=1))
    scorer = place.scorer(judge)
    scorer.refresh()
    place.put(linear([-1.0, 0.0, 0.0], version=2))
    assert not scorer.refresh()
    assert (scorer.version, len(judged)) == (1, 2)
    place.put(linear([1.0, 0.0, 0.0], version=1))
    again = place.scorer(judge)
    assert again.refresh()
    assert (again.version, len(judged)) == (1, 2)


def test_loaded_beside_serving_it_is_swapped_as_ours_is(place: Place) -> None:
    place.put(linear([1.0, 0.0, 0.0], version=1))
    scorer = LoadedBeside(place.scorer())
    scorer.warm(FEATURES)
    assert scorer.version == 1
    place.put(linear([2.0, 0.0, 0.0], version=2))
    scorer.refresh()
    scorer.wait()
    assert scorer.score(ONE)[0] == 2
