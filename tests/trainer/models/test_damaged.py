"""A damaged model file is said at once, and the last whole version is scored with."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from tests.trainer.models.test_deltas import ENCODER, TABLE, expected, publish


def damage(file: Path) -> bytes:
    """Flip a byte in the middle; the content as it was."""
    content = file.read_bytes()
    file.write_bytes(
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[1 + len(content) // 2 :]
    )
    return content


def full(directory: ModelDirectory, version: int) -> Path:
    return directory.path / f"model-{version:012d}.npz"


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    made = ModelDirectory(tmp_path)
    for version in (1, 2, 3):
        assert publish(made, version, None)
    return made


def scores(scorer: Scorer) -> list[float]:
    found: list[float] = scorer.predict(TABLE).tolist()
    return found


def test_a_start_takes_the_last_whole_one_and_says_what_is_damaged(
    directory: ModelDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    damage(full(directory, 3))
    damage(full(directory, 2))
    scorer = Scorer(directory, ENCODER, on_damaged=told.append)
    assert scorer.refresh()
    assert scorer.version == 1
    assert scores(scorer) == pytest.approx(expected(1).tolist())
    assert told == [1, 2]
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert ["model version 3 is damaged" in said[0], "model version 2 is damaged" in said[1]] == [True, True]
    assert "torn or corrupt" in said[0]


def test_it_is_said_once_and_not_read_again(directory: ModelDirectory, caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(directory, ENCODER)
    scorer.refresh()
    publish(directory, 4, None)
    damage(full(directory, 4))
    state = scorer.offered()
    assert not scorer.refresh()
    assert not scorer.refresh()
    assert scorer.version == 3
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert scorer.offered() != state
    state = scorer.offered()
    scorer.refresh()
    assert scorer.offered() == state


def test_a_mended_file_is_taken_up_and_a_newer_one_goes_before_it(directory: ModelDirectory) -> None:
    told: list[int] = []
    scorer = Scorer(directory, ENCODER, on_damaged=told.append)
    whole = damage(full(directory, 3))
    scorer.refresh()
    assert scorer.version == 2
    full(directory, 3).write_bytes(whole)
    assert scorer.refresh()
    assert (scorer.version, told) == (3, [1, 0])
    publish(directory, 4, None)
    publish(directory, 5, None)
    damage(full(directory, 4))
    assert scorer.refresh()
    assert scorer.version == 5


def test_after_a_damaged_delta_nothing_is_guessed(directory: ModelDirectory) -> None:
    scorer = Scorer(directory, ENCODER)
    scorer.refresh()
    publish(directory, 4, 3)
    publish(directory, 5, 4)
    damage(directory.path / f"delta-{4:012d}.npz")
    assert not scorer.refresh()
    assert scorer.version == 3
    publish(directory, 6, None)
    assert scorer.refresh()
    assert scores(scorer) == pytest.approx(expected(6).tolist())


def test_a_damaged_pin_leaves_what_serves_and_a_start_the_version_before_it(directory: ModelDirectory) -> None:
    running = Scorer(directory, ENCODER)
    running.refresh()
    directory.pin(2)
    damage(full(directory, 2))
    assert not running.refresh()
    assert running.version == 3
    started = Scorer(directory, ENCODER)
    assert started.refresh()
    assert started.version == 1


def test_a_file_that_cannot_be_read_counts_as_damaged(directory: ModelDirectory) -> None:
    full(directory, 4).mkdir()
    scorer = Scorer(directory, ENCODER)
    assert scorer.refresh()
    assert scorer.version == 3


def test_a_model_of_another_format_is_no_damage(directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.trainer.models.publish.FORMAT", 9)
    with pytest.raises(ModelError, match="expected a model of format 9"):
        Scorer(directory, ENCODER).refresh()
