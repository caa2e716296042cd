"""The audit compares every store with the archive: what was deleted or damaged is said, with what to do about it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dovetail.app.reports import KeptStores, audit_stores
from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.platform.errors import StateError
from dovetail.trainer.models.publish import Model
from tests.app.small_project import MESSAGES, Messages, at, live, project_in, write_project
from tests.features.stored.stored_world import World

#: Events before any request, so that requests see them.
EVENTS: Messages = {
    **MESSAGES,
    "behaviour": [{"user_id": user, "event_time": at(second)} for second, user in enumerate(["u", "v", "w", "u"] * 5)],
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that a worker has lived through: events first, then all the rest."""
    folder = tmp_path_factory.mktemp("lived") / "project"
    write_project(folder, messages=EVENTS)
    for roles in (("features",), ("snapshots", "labels", "samples", "archive", "features")):
        asyncio.run(live(folder, roles=roles))
    return folder


@pytest.fixture
def project(lived: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may harm."""
    return Path(shutil.copytree(lived, tmp_path / "project"))


def found(folder: Path) -> KeptStores:
    worker = assemble(project_in(folder))
    try:
        return audit_stores(worker.project, worker.stores)
    finally:
        worker.stores.close()


def run_audit(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["dovetail", "audit", "--project", str(folder), "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), capsys.readouterr().out


def sql(folder: Path, store: str, *statements: str) -> None:
    with sqlite3.connect(folder / "state" / f"{store}.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_it_holds_of_a_worker_that_was_left_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = found(project)
    assert kept.wrong == []
    assert all(check.holds for check in kept.checks)
    told = {check.what: (check.left, check.right) for check in kept.checks}
    assert told["behaviour: archived, and rows in files"] == (20, 20)
    assert told["behaviour[0] in activity: included in state, and in what was served"] == (21, 21)
    assert told["keys of activity: recomputed from the archive, and equal"] == (3, 3)
    code, printed = run_audit(project, monkeypatch, capsys)
    assert code == 0
    assert json.loads(printed)["balanced"]


def without_files(pattern: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        files = list(folder.glob(pattern))
        assert files
        for file in files:
            file.unlink()

    return harm


def fewer_rows(folder: Path) -> None:
    (file,) = folder.glob("state/offline/behaviour/*/*.parquet")
    pq.write_table(pq.read_table(file).slice(1), file)


def cut_short(folder: Path) -> None:
    (file,) = folder.glob("state/offline/behaviour/*/*.parquet")
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize(
    ("harm", "says", "remedy"),
    [
        (
            without_files("state/online_store.sqlite*"),
            "online store: the state of activity includes behaviour[0] up to 0, and requests were answered with it up",
            "start the worker",
        ),
        (
            lambda folder: sql(
                folder, "online_store", "DELETE FROM feature_state WHERE key < (SELECT max(key) FROM feature_state)"
            ),
            "online store: the state of activity is not that of its events: user_id = ",
            "bootstrap activity --replace",
        ),
        (
            lambda folder: sql(folder, "online_store", "DELETE FROM feature_state"),
            "the state of activity is not that of its events: user_id = 'u': events is 0, of its events 10",
            "bootstrap activity --replace",
        ),
        (
            lambda folder: sql(folder, "online_store", "UPDATE feature_state SET state = x'00'"),
            "online store: a state of activity cannot be read",
            "bootstrap activity --replace",
        ),
        (
            lambda folder: sql(folder, "online_store", "UPDATE progress SET next_offset = 7 WHERE next_offset = 21"),
            "the state of activity includes behaviour[0] up to 7, and requests were answered with it up to 21",
            "bootstrap activity --replace",
        ),
        (
            without_files("state/label_store.sqlite*"),
            "label store: samples of snapshots[0] are archived",
            "start the worker",
        ),
        (
            without_files("state/registry.sqlite*"),
            "registry: 1 files of behaviour are in the offline store",
            "restore it",
        ),
        (without_files("state/offline/behaviour/*/*"), "archive of behaviour: ", "restore it from a copy"),
        (fewer_rows, "has 19 rows instead of 20", "restore it from a copy"),
        (cut_short, "cannot be read", "restore it from a copy"),
        (without_files("state/offline/snapshots/*/*"), "archive of snapshots: ", "restore it from a copy"),
    ],
)
def test_harm_is_found_and_the_remedy_said(
    project: Path,
    harm: Callable[[Path], None],
    says: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(project)
    code, printed = run_audit(project, monkeypatch, capsys)
    assert code == 1
    wrong = [line for line in json.loads(printed)["unbalanced"] if says in line]
    assert wrong
    assert remedy in wrong[0]


def test_a_state_is_not_held_against_an_archive_that_is_damaged_nor_made_from_it(project: Path) -> None:
    fewer_rows(project)
    kept = found(project)
    assert [line for line in kept.wrong if "online store" in line] == []
    loaded = load(project)
    stores = open_stores(loaded.config)
    with pytest.raises(StateError, match="has 19 rows instead of 20: restore it from a copy; the state that is there"):
        bootstrap(
            loaded.stream_views["activity"], stores.registry, stores.offline, stores.online, replace_existing=True
        )
    stores.close()


def test_a_damaged_model_is_found(project: Path) -> None:
    loaded = load(project)
    stores = open_stores(loaded.config)
    stores.models.publish(1, Model("f" * 64, 3, 10, np.array([1], np.uint32), np.array([0.5], np.float32)))
    assert found(project).wrong == []
    (file,) = stores.models.path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:50])
    (wrong,) = found(project).wrong
    assert wrong.startswith("models: version 1 cannot be read: ")
    stores.close()


def test_what_the_audit_tells_to_do_helps(project: Path) -> None:
    without_files("state/online_store.sqlite*")(project)
    assert found(project).wrong
    asyncio.run(live(project, roles=("features",)))
    assert found(project).wrong == []


def test_keys_are_compared_over_partitions_as_long_as_the_archive_is_not_behind(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.live(60)
    kept = audit_stores(world.project, world.stores)
    assert kept.wrong == []
    told = {check.what: (check.left, check.right) for check in kept.checks}
    assert told["keys of users: recomputed from the archive, and equal"] == (5, 5)
    world.live(66, first=60)  # archived
    world.send([{"user_id": "u1", "kind": "click", "price": 1, "event_time": 1_800_000_000_000_000}])
    world.stream("users")  # not archived
    kept = audit_stores(world.project, world.stores)
    assert kept.wrong == []
    assert not any(check.what.startswith("keys of") for check in kept.checks)


@pytest.mark.parametrize("store", ["online_store", "label_store", "registry"])
def test_a_file_that_is_no_database_is_a_failed_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    for part in project.glob(f"state/{store}.sqlite-*"):
        part.unlink()
    (project / "state" / f"{store}.sqlite").write_bytes(b"no database" * 1_000)
    code, said = run_audit(project, monkeypatch, capsys)
    problem, rest = json.loads(said)["unbalanced"]
    assert (code, rest) == (1, "nothing else was audited: what the other stores hold is compared with these")
    assert problem.startswith(f"{store}: sqlite:///")
    assert "the file is damaged: restore it from a copy" in problem
