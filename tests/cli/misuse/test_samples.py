"""Samples that a command names and cannot read are a misuse: of every command that takes some, in every format."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dovetail.cli.main import app
from dovetail.platform.errors import ConfigError
from dovetail.trainer.models.container import Damaged
from tests.cli.trained_project import call, samples

COMMANDS = {
    "train": ("train", "{}", "--out", "new"),
    "evaluate": ("evaluate", "{}", "-m", "m"),
    "compare": ("model", "compare", "m", "m@1", "--samples", "{}"),
    "explain": ("model", "explain", "m", "--samples", "{}"),
    "collisions": ("model", "collisions", "m", "--samples", "{}"),
}
JUNK = {"log.csv": b"a,b\n", "long": b"PAR1" * 40, "bytes": b"\xff\xfe\n", "empty": b""}


@pytest.fixture
def trained(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pq.write_table(samples(60), project / "s.parquet")
    call("train", "-p", project, project / "s.parquet", "--out", project / "m")
    for name, content in JUNK.items():
        (project / name).write_bytes(content)
    (project / "folder").mkdir()
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize("command", COMMANDS)
def test_samples_that_cannot_be_read_are_a_misuse(command: str, trained: Path) -> None:
    for name, *more in [
        *((junk,) for junk in JUNK),
        ("folder",),
        ("bytes", "--format", "vw"),
        ("log.csv", "--format", "libsvm"),
    ]:
        said = CliRunner().invoke(app, [word.format(name) for word in COMMANDS[command]] + more)
        assert isinstance(said.exception, ConfigError), (name, said.output)
        assert name in str(said.exception)
        assert "; " in str(said.exception)
    assert not (trained / "new").exists()


def test_a_damaged_model_promises_no_file_before_it(trained: Path) -> None:
    file = next((trained / "m").glob("model-*.npz"))
    file.write_bytes(file.read_bytes()[:100])
    said = CliRunner().invoke(app, ["model", "explain", "m", "--samples", "s.parquet"])
    assert isinstance(said.exception, Damaged)
    assert "if there is one" in str(said.exception)
