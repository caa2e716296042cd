"""What the trainer would not go on from is foreseen, by `dovetail check --diff`, too."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dovetail.app.storage import open_stores
from dovetail.app.trainer_stage import checkpoint_refusal
from dovetail.app.worker import assemble
from dovetail.cli.main import app
from dovetail.platform.errors import ModelError
from dovetail.sdk import load
from tests.app.small_project import TOML, exposure, request, write_project

#: Without an ordering stage, whose topic is another one.
PLAIN = TOML.replace("[labels.order]\nblock_rows = 2\n", "")
MODEL = """
[model]
name = "first"
bits = 8
inputs = [{ column = "events", kind = "numeric" }]
"""


def declare(folder: Path, toml: str) -> None:
    (folder / "dovetail.toml").write_text(toml)


def told(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    result = CliRunner().invoke(app, ["check", "--diff", "--json", "--project", str(folder)], catch_exceptions=False)
    return result.exit_code, [one for one in json.loads(result.output) if one["kind"] == "model"]


def test_a_checkpoint_of_other_samples_is_foreseen(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder, PLAIN + MODEL, messages={})
    assert told(folder) == (0, [])
    with load(folder).embedded() as flow:
        flow.rank([request("r", "u", [1], 10)])
        flow.send("exposure", [exposure("r", 1, 11)])
        flow.until_idle()
    with closing(open_stores(load(folder).config)) as stores:
        assert checkpoint_refusal(load(folder), stores) is None
    renamed = (PLAIN + MODEL).replace("[labels]\n", '[labels]\nsamples_topic = "others"\n')
    declare(folder, renamed)
    code, (model,) = told(folder)
    assert (code, model["name"], model["refused"]) == (1, "first", True)
    (difference,) = model["differences"]
    assert "others" in difference
    with pytest.raises(ModelError, match="written under another configuration"):
        assemble(load(folder))
    declare(folder, renamed.replace('name = "first"', 'name = "second"'))
    assert told(folder) == (0, [])
