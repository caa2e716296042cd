"""A join whose driver is killed has given all of its samples, or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.reports import rejoin
from dovetail.app.storage import open_stores
from dovetail.cli.models.samples import find_samples
from dovetail.features import load
from dovetail.platform.config.load import load_config
from tests.features.stored.test_killed import Runs
from tests.spark.label_join.archived_worlds import archived_world
from tests.spark.label_join.test_joined import joined

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs") / "errors", "tests.spark.label_join.mortal_join")
    yield made
    made.close()


def visible(project: Path) -> Files:
    out = project / "out"
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def left(project: Path) -> list[Path]:
    return list((project / "out").rglob("*.partial"))


def evaluated(project: Path) -> None:
    """Read as by ``train`` and ``evaluate``."""
    names = [str(project / "out")]
    list(find_samples(load_config(project), names, format_="parquet", first=None, last=None).tables())


def backfilled(project: Path) -> None:
    """Read as by ``backfill --samples``."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    open_backfill(loaded, stores, BackfillRequest("ranking", str(project / "more"), samples=str(project / "out")))
    stores.close()


READERS = (evaluated, backfilled)


@pytest.fixture
def joined_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Files]]:
    """A project with a join of all its requests; the next one is of the first requests only."""
    folder = tmp_path / "project"
    world = archived_world(folder, 6, requests=20)
    with monkeypatch.context() as patched:
        patched.setattr(rejoin, "released_positions", lambda *_: {(0, 0): 1 << 40, (0, 1): 1 << 40})
        joined(folder, folder / "out", None)
    world.stores.close()
    shutil.copytree(folder, tmp_path / "kept")
    yield folder, visible(folder)
    shutil.rmtree(tmp_path / "kept")


def restored(folder: Path) -> Path:
    """The project as it was: at the same place, since the registry knows the folder of a join by its path."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("kept"), folder)
    return folder


@pytest.mark.parametrize("engine", ["spark", "local"])
def test_killed_at_any_moment_it_has_given_all_or_nothing(
    engine: str, runs: Runs, joined_before: tuple[Path, Files]
) -> None:
    project, before = joined_before
    moments = runs.ask(engine, str(project), 0)
    after = visible(project)
    assert moments is not None
    assert len(before) == 2
    assert len(after) == 1, "a day that has no samples any more is removed"
    assert set(before) > set(after)
    assert before != {**before, **after}, "and the other one is replaced"
    turned = []
    for die_at in range(1, moments + 1):
        assert runs.ask(engine, str(restored(project)), die_at) is None
        seen = visible(project)
        assert all(seen[name] in (before[name], after.get(name)) for name in seen), "no file is half"
        READERS[die_at % 2](project)
        assert visible(project) in (before, after), f"{die_at}: read by a command, it is one join or the other"
        turned.append(visible(project) == after)
        assert runs.ask(engine, str(project), 0) is not None
        assert visible(project) == after
        assert not left(project), "what the dead left"
    assert turned == sorted(turned), "all at one moment"
    assert {*turned} == {False, True}
