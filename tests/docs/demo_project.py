"""The repository's own project in a folder of a test, with an API and an empty offline table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from dovetail.features import load
from tests.places import ROOT


def demo_project(folder: Path) -> Path:
    shutil.copytree(ROOT / "sql", folder / "sql")
    shutil.copy(ROOT / "dovetail.toml", folder)
    with (folder / "dovetail.toml").open("a") as file:
        file.write("\n[api]\nport = 0\n")
    project = load(folder)
    table = project.config.path(project.config.tables["item"].path)
    table.parent.mkdir()
    (view,) = project.batch_views.values()
    pq.write_table(view.tables[0].schema.arrow.empty_table(), table)
    return folder
