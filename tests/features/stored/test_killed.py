"""A backfill, or a batch view, killed with SIGKILL at any moment goes on where it was, to the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.platform.stores.registry.store import Registry
from tests.features.stored.stored_world import START, World, events, requests
from tests.places import ROOT
from tests.seeds import SEEDS

MORTAL = "tests.features.stored.mortal_backfill"
KILLED = {"moments": None, "code": None, "signal": int(signal.SIGKILL)}


class Runs:
    """Runs of a script that serves (``mortal_backfill.serve``), of backfills and batch views if not said otherwise."""

    def __init__(self, log: Path, script: str = MORTAL) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._server = subprocess.Popen(
                [sys.executable, "-m", script],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def run(self, shop: Path, die_at: int, version_us: int | None = None) -> int | None:
        """As ``ask``. A version is run alone, without a backfill."""
        return self.ask(str(shop), str(shop / "out") if version_us is None else version_us, die_at)

    def ask(self, *asked: str | int) -> int | None:
        """How many moments it had; None when it was killed. The last one asked for is where it dies."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        said: dict[str, int | None] = json.loads(self._server.stdout.readline() or "{}")
        assert said in ({"moments": said.get("moments"), "code": 0, "signal": 0}, KILLED), self._log.read_text()[-4000:]
        return said["moments"]

    def close(self) -> None:
        self._server.communicate()


def kept(shop: Path) -> dict[str, Any]:
    """Everything that a backfill leaves: its files, the batch versions it made, what the registry says of both.

    What it was writing when it was killed has a hidden name, under which nobody reads.
    """
    folders = (shop / "out", shop / ".dovetail" / "offline" / "batch")
    visible = [p for f in folders for p in sorted(f.rglob("*")) if p.is_file() and not p.name.endswith(".partial")]
    files = {str(path.relative_to(shop)): path.read_bytes() for path in visible}
    registry = Registry(f"sqlite:///{shop / '.dovetail' / 'registry.sqlite'}")
    job, days = registry.backfill(str(shop / "out"))
    rest = {
        "job": job,
        "days": [day[1:] for day in days.values()],
        "versions": registry.versions("profile"),
        "uses": [(use.definition, use.fingerprint, use.day) for use in registry.uses()],
        "definitions": registry.definitions(),
    }
    registry.close()
    return files | rest


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with archived events and requests of four days, before any backfill."""
    world = World(tmp_path_factory.mktemp("killed") / "shop")
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    world.stores.close()
    return world.folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs") / "errors")
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(shop: Path, runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What is left by a backfill that nobody killed, and how many moments it had."""
    folder = tmp_path_factory.mktemp("undisturbed") / "shop"
    shutil.copytree(shop, folder)
    moments = runs.run(folder, 0)
    assert moments is not None
    assert not list(folder.rglob("*.partial"))
    return kept(folder), moments


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_it_goes_on_to_the_same_bytes(
    seed: int, shop: Path, runs: Runs, undisturbed: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, moments = undisturbed
    assert moments > 20
    mine = tmp_path / "shop"
    shutil.copytree(shop, mine)
    rng = random.Random(seed)
    # The first moments, too, where hardly anything exists; later deaths come sooner, there is less left to do.
    first, second = sorted(rng.sample(range(1, moments), k=2), reverse=True)
    assert runs.run(mine, first) is None
    runs.run(mine, second)
    assert runs.run(mine, 0) is not None
    assert kept(mine) == expected
    assert not list(mine.rglob("*.partial")), "what the dead left"
    times = {path: path.stat().st_mtime_ns for path in (mine / "out").rglob("*")}
    assert runs.run(mine, 0) is not None
    assert kept(mine) == expected
    assert {path: path.stat().st_mtime_ns for path in (mine / "out").rglob("*")} == times, "nothing was written again"


def test_every_day_and_version_was_at_stake(undisturbed: tuple[dict[str, Any], int]) -> None:
    expected, _ = undisturbed
    assert len(expected["days"]) == 4
    assert len(expected["versions"]) >= 4


def written(shop: Path) -> dict[Path, int]:
    """The files of the batch views that readers see, and when each was written."""
    files = (shop / ".dovetail" / "offline" / "batch").rglob("*.parquet")
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_batch_view_killed_at_any_moment_comes_to_the_same_bytes(shop: Path, runs: Runs, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(shop, whole)
    moments = runs.run(whole, 0, START)
    assert moments is not None
    assert moments >= 6, "rows into the file, the file under its name, the row of the registry: before and after each"
    expected = kept(whole)
    (version,) = expected["versions"]
    assert (version.version_us, version.rows) == (START, 3)
    for die_at in range(1, moments + 1):
        mine = tmp_path / str(die_at)
        shutil.copytree(shop, mine)
        assert runs.run(mine, die_at, START) is None
        # Whatever readers can see by then is whole.
        seen = kept(mine)
        assert seen["versions"] in ([], [version])
        assert seen["versions"] == [] or version.path in {f.removeprefix(".dovetail/offline/") for f in seen}
        assert all(seen[name] == expected[name] for name in seen if name.endswith(".parquet"))
        assert runs.run(mine, 0, START) is not None
        assert kept(mine) == expected
        assert not list(mine.rglob("*.partial")), "what the dead left"
        times = written(mine)
        assert runs.run(mine, 0, START) == 0
        assert written(mine) == times, "a version that is there is read"
