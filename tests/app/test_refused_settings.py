"""Settings that only definitions, model or stores can refuse: with place and remedy, never a traceback."""

from __future__ import annotations

import re
import shutil
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.platform.errors import DovetailError
from tests.app.small_project import FEATURES, SQL, TOML, VIEW
from tests.generated import tries

MODEL = {"inputs": [{"column": "events", "kind": "numeric"}]}
ARMS = {"a": {"share": 0.5}, "b": {"share": 0.5, "model": "@7"}}


def model(**settings: object) -> dict[str, object]:
    return {"model": MODEL | settings}


def inputs(*declared: dict[str, object]) -> dict[str, object]:
    return model(inputs=list(declared))


def optimizer(**settings: object) -> dict[str, object]:
    return model(optimizer=settings)


#: Sections in place of the project's own, and the place that the refusal names.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"request": {"feature_set": "rankin"}}, "request.feature_set"),
    (inputs({"column": "event"}), "model.inputs.0"),
    (inputs({"column": "events", "kind": "list", "length": 2}), "model.inputs.0"),
    (model(evaluation={"slices": ["segment"]}), "model.evaluation.slices"),
    (inputs({"column": "events", "kind": "bucketed", "boundaries": [2, 1]}), "model input 'events'"),
    (inputs({"column": "events", "kind": "numeric", "length": 2}), "model input 'events'"),
    (inputs({"columns": ["events", "events"], "kind": "cross"}), "model input 'events*events'"),
    (inputs({"column": "events", "columns": ["events"], "kind": "cross"}), "model input"),
    (inputs({"column": "events", "kind": "numeric"}, {"column": "events", "kind": "numeric"}), "model input 'events'"),
    (optimizer(epsilon=0.5), "[model.optimizer]"),
    (optimizer(name="adagrad", l1=0.5), "[model.optimizer]"),
    (optimizer(lr_power=-1), "[model.optimizer]"),
    (model(slots={"admit_after": 2, "admit_probability": 0.5}), "slots"),
    (model(gate={"min_calibration": 2.0, "max_calibration": 1.0}), "gate"),
    ({"storage": {"state": "dovetail.toml"}}, "dovetail.toml"),
    ({"storage": {"state": "/dev/null/x"}}, "/dev/null"),
    ({"storage": {"broker": "nosuch://x"}}, "storage.broker"),
    ({"storage": {"label_store": "nosuch://x"}}, "store URL 'nosuch://x'"),
    ({"storage": {"online_store": "redis://h:x/0"}}, "store URL 'redis://h:x/0'"),
    ({"storage": {"online_store": "redis://h:1/x"}}, "store URL 'redis://h:1/x'"),
    ({"storage": {"offline_store": "nosuch://x"}}, "offline store 'nosuch://x'"),
    ({"tables": {"one": {"path": "x"}}}, "[tables.one]"),
    ({"batch_views": {"one": {}}}, "[batch_views.one]"),
    ({"streams": {"behaviour": {"key": "user"}}}, "user"),
    ({"experiments": {"e": {"by": "user", "arms": ARMS}}, **model()}, "[experiments.e]"),
    ({"experiments": {"e": {"by": "user_id", "arms": ARMS}}, **model()}, "[experiments.e.arms.b]"),
]
REMEDY = re.compile(r"[;,:] (is it |see |known are |there are|use |try |select |correct )|; [a-z]+ \S")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "sql").mkdir()
    for name, text in (("tables", SQL), ("activity", VIEW), ("ranking", FEATURES)):
        (folder / f"sql/{name}.sql").write_text(text, encoding="utf-8")
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    return folder


def started(folder: Path, sections: dict[str, Any]) -> None:
    """Load and assemble the project with other sections, from nothing kept."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    assemble(load(folder, **sections)).stores.close()


@pytest.mark.parametrize(("sections", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_a_refusal_says_where_and_what_to_do(sections: dict[str, Any], place: str, folder: Path) -> None:
    with pytest.raises(DovetailError) as raised:
        started(folder, sections)
    assert place in str(raised.value)
    assert REMEDY.search(str(raised.value)), str(raised.value)


#: What is accepted of each, and refused later or not at all.
DRAWN = [
    *(("model", "evaluation", key) for key in ("window", "windows", "time_windows", "slice_values", "ranking_at")),
    *(("model", key) for key in ("bits", "publish_every", "full_every", "checkpoint_every", "name", "label")),
    *(("model", "optimizer", key) for key in ("alpha", "beta", "l1", "l2", "lr_power", "name")),
    *(("model", "slots", key) for key in ("admit_after", "admit_probability", "expire_days")),
    *(("model", "gate", key) for key in ("min_samples", "max_log_loss", "min_calibration")),
    *(("labels", key) for key in ("window", "allowed_lateness", "max_early", "retention", "idle_timeout")),
    *(("request", key) for key in ("topic", "partitions", "feature_set", "allowed_lateness", "unique_within")),
    *(("storage", key) for key in ("state", "online_store", "label_store", "registry", "offline_store")),
    *(("worker", key) for key in ("stop_timeout", "watchdog_timeout", "session_timeout", "heartbeat")),
    *((("sql",), ("name",), ("streams", "behaviour", "key"), ("streams", "behaviour", "event_time"))),
]
VALUES = [
    *("", "x", "a b", "é", "0s", "1us", "100000d", "/dev/null/x", "dovetail.toml", "sql", "sqlite:////dev/null/x"),
    *(0, 1, -1, 7, 28, 2**31, 2**53, 0.5, 1e308, -0.0, True),
]


@settings(max_examples=tries(30))
@given(key=st.sampled_from(DRAWN), value=st.sampled_from(VALUES))
def test_what_is_drawn_starts_or_is_refused(key: tuple[str, ...], value: object, folder: Path) -> None:
    sections: dict[str, Any] = tomllib.loads(TOML) | model()
    inner = sections
    for part in key[:-1]:
        inner = inner.setdefault(part, {})
    inner[key[-1]] = value
    with suppress(DovetailError):
        started(folder, sections)
