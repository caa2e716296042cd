"""Models are loaded beside serving: a call is scored by one whole version, whatever is being loaded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.beside import LoadedBeside
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from tests.trainer.models.test_damaged import damage, full
from tests.trainer.models.test_deltas import ENCODER, TABLE, expected, publish


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    made = ModelDirectory(tmp_path)
    publish(made, 1, None)
    return made


def test_the_first_version_is_there_before_the_first_request(directory: ModelDirectory) -> None:
    beside = LoadedBeside(Scorer(directory, ENCODER))
    beside.warm(TABLE.schema)
    assert beside.version == 1
    assert beside.score(TABLE).predictions.tolist() == pytest.approx(expected(1).tolist())


def test_who_asks_does_not_wait_and_the_old_one_serves_meanwhile(
    directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = LoadedBeside(Scorer(directory, ENCODER))
    beside.warm(TABLE.schema)
    begun, go_on, load = threading.Event(), threading.Event(), directory.load

    def slow(version: int) -> Model:
        begun.set()
        assert go_on.wait(timeout=60)
        return load(version)

    monkeypatch.setattr(directory, "load", slow)
    publish(directory, 2, None)
    beside.refresh()
    assert begun.wait(timeout=60)
    publish(directory, 3, None)
    for _ in range(3):
        beside.refresh()
        assert beside.score(TABLE).version == 1
    go_on.set()
    beside.wait()
    beside.refresh()
    beside.wait()
    assert beside.version == 3


def test_nothing_new_starts_no_load(directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = LoadedBeside(Scorer(directory, ENCODER))
    beside.warm(TABLE.schema)
    monkeypatch.setattr(Scorer, "refresh", lambda _self: pytest.fail("it was loaded"))
    beside.refresh()
    beside.wait()
    beside.refresh()


def test_a_load_that_fails_is_raised_where_it_was_asked_for(directory: ModelDirectory) -> None:
    beside = LoadedBeside(Scorer(directory, ENCODER))
    beside.warm(TABLE.schema)
    other = Model("f" * 64, 5, 1, np.array([1], np.uint32), np.array([1.0], np.float32))
    directory.publish(2, other)
    beside.refresh()
    beside.wait()
    with pytest.raises(ModelError, match="trained under encoder fingerprint ffff"):
        beside.refresh()
    assert beside.score(TABLE).version == 1
    beside.refresh()


def test_a_damaged_version_is_no_error_and_the_last_whole_one_serves(directory: ModelDirectory) -> None:
    told: list[int] = []
    beside = LoadedBeside(Scorer(directory, ENCODER, on_damaged=told.append))
    beside.warm(TABLE.schema)
    publish(directory, 2, None)
    damage(full(directory, 2))
    beside.refresh()
    beside.wait()
    beside.refresh()
    beside.wait()
    assert (beside.version, told) == (1, [1])


def test_each_call_is_scored_by_one_whole_version_while_others_are_taken_up(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, keep=50)
    beside = LoadedBeside(Scorer(directory, ENCODER))
    rows = pa.concat_tables([TABLE] * 50)
    wanted = {version: expected(version).tolist() * 50 for version in range(1, 31)}
    for version in range(1, 31):
        publish(directory, version, None)
        beside.refresh()
        found = beside.score(rows)
        if found.version:
            assert found.predictions.tolist() == pytest.approx(wanted[found.version])
    beside.wait()
    beside.refresh()
    beside.wait()
    assert beside.version == 30
