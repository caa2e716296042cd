"""What Dovetail writes is its owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dovetail.platform.owned import owned_file, owned_folder
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.trainer.models.container import create
from dovetail.trainer.models.numbered import NumberedFiles


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    """The usual one, under which others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


def test_databases_logs_and_models_are_for_their_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "below" / "state"
    registry = Registry(f"sqlite:///{state}/registry.sqlite")
    registry.refuse("in", 0, {1: "no"})
    with EmbeddedLog.open(state / "log.sqlite") as log:
        log.create_topic("in", 1)
        log.append([Outgoing("in", b"", partition=0)])
        create(NumberedFiles(state / "models" / "ctr", "model").path(1), b"weights")
        found = modes(tmp_path / "below")
    registry.close()
    assert {name for name in found if name.startswith(("registry", "log", "model-"))} >= {
        "registry.sqlite", "registry.sqlite-wal", "log.sqlite", "log.sqlite-wal", "log.sqlite.lock",
        "model-000000000001.npz",
    }  # fmt: skip
    assert set(found.values()) == {0o700, 0o600}
    assert {name for name, mode in found.items() if mode == 0o700} == {"below", "state", "models", "ctr"}


def test_what_is_there_keeps_its_mode_and_content(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared" / "file").write_text("kept")
    owned_folder(tmp_path / "shared")
    owned_file(tmp_path / "shared" / "file")
    assert modes(tmp_path / "shared") == {"shared": 0o755, "file": 0o644}
    assert (tmp_path / "shared" / "file").read_text() == "kept"
