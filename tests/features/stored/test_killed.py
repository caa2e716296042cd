"""A backfill killed with SIGKILL at any moment goes on where it was, to the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dovetail.platform.stores.registry import Registry

from .stored_world import World, events, requests

MORTAL = Path(__file__).parent / "mortal_backfill.py"


def run(shop: Path, die_at: int) -> dict[str, Any] | None:
    """What it printed, at last how many moments it had; None when it was killed."""
    command = [sys.executable, str(MORTAL), str(shop), str(shop / "out"), str(die_at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-4000:]
    if done.returncode:
        return None
    last: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return last


def kept(shop: Path) -> dict[str, Any]:
    """Everything that a backfill leaves: its files, the batch versions it made, what the registry says of both."""
    folders = (shop / "out", shop / ".dovetail" / "offline" / "batch")
    files = {str(p.relative_to(shop)): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}
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
def undisturbed(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What is left by a backfill that nobody killed, and how many moments it had."""
    folder = tmp_path_factory.mktemp("undisturbed") / "shop"
    shutil.copytree(shop, folder)
    said = run(folder, 0)
    assert said is not None
    return kept(folder), said["moments"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_killed_it_goes_on_to_the_same_bytes(
    seed: int, shop: Path, undisturbed: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, moments = undisturbed
    assert moments > 20
    mine = tmp_path / "shop"
    shutil.copytree(shop, mine)
    rng = random.Random(seed)
    # The first moments, too, where hardly anything exists; later deaths come sooner, there is less left to do.
    first, second = sorted(rng.sample(range(1, moments), k=2), reverse=True)
    assert run(mine, first) is None
    run(mine, second)
    assert run(mine, 0) is not None
    assert kept(mine) == expected
    times = {path: path.stat().st_mtime_ns for path in (mine / "out").rglob("*")}
    assert run(mine, 0) is not None
    assert kept(mine) == expected
    assert {path: path.stat().st_mtime_ns for path in (mine / "out").rglob("*")} == times, "nothing was written again"


def test_every_kind_of_moment_comes(undisturbed: tuple[dict[str, Any], int]) -> None:
    expected, _ = undisturbed
    assert len(expected["days"]) == 4
    assert len(expected["versions"]) >= 4
    assert not [name for name in expected if name.endswith(".partial")]
