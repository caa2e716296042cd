"""The example of docs/samples.md: every sample is read once, over several runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.places import ROOT
from tests.samples.sample_worlds import World

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/samples.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = BLOCKS
    world = World(tmp_path / "project")
    monkeypatch.chdir(world.folder)
    seen: list[pa.Table] = []
    try:
        for _ in range(3):
            world.send([(0, 600, False), (1, 300, True)])
            namespace: dict[str, Any] = {"note": seen.append}
            exec(
                compile(
                    block.replace("    for batch in reader:", "    for batch in reader:\n        note(batch)"),
                    "page",
                    "exec",
                ),
                namespace,
            )
            world.archive(1, 500)
    finally:
        world.close()
    rows = pa.concat_tables(seen)
    assert rows.num_rows == 2_700
    assert rows.group_by(["request_id", "item_id"]).aggregate([]).num_rows == 2_700
    assert json.loads((world.folder / "reader.json").read_text())["shuffle_rows"] == 10_000
