"""``kill -9`` at random moments, then the same again: the end is the same as without."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from tests import forked
from tests.seeds import SEEDS

MORTAL = Path(__file__).parent / "mortal_demo.py"
#: Counts that say how often something was read, which a crash may make one more.
OF_THE_ROAD = ("seconds", "steps", "audit")


def run(keep: Path, die_at: int) -> tuple[int, dict[str, Any]]:
    result, log = keep.with_suffix(".json"), keep.with_suffix(".log")
    with log.open("wb") as output:
        process = forked.start(
            [MORTAL, "simulator", keep, result, str(die_at)], stdout=output, stderr=subprocess.STDOUT
        )
    code = process.wait(300)
    assert code in (0, -signal.SIGKILL), log.read_text()[-4000:]
    return code, json.loads(result.read_text()) if code == 0 else {}


def samples(keep: Path) -> pa.Table:
    """The archived samples with all they carry, but for where they stood in topics."""
    registry = Registry(f"sqlite:///{keep / 'registry.sqlite'}")
    rows = read_dataset(registry, OfflineStore(str(keep / "offline")), "samples")
    registry.close()
    rows = rows.drop_columns([*OWN_COLUMNS, *SOURCE_COLUMNS])
    return rows.sort_by([("request_time", "ascending"), ("request_id", "ascending"), ("item_id", "ascending")])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """From a fresh interpreter, which has another seed of hashes than all that are killed."""
    keep = tmp_path_factory.mktemp("undisturbed") / "keep"
    result = keep.with_suffix(".json")
    subprocess.run([sys.executable, str(MORTAL), "simulator", str(keep), str(result), "0"], check=True, timeout=300)
    return keep, json.loads(result.read_text())


def test_an_undisturbed_run_passes_both_verdicts(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, result = undisturbed
    assert result["passed"]
    assert result["consistency"]["compared"] > 0
    assert result["samples"] > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random_moments_it_ends_the_same(
    seed: int, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, expected = undisturbed
    rng = random.Random(seed)
    keep = tmp_path / "keep"
    deaths = 0
    # The first step included: a run killed before it has done anything must not be in the way of the next.
    for die_at in sorted(rng.sample(range(1, expected["steps"]), k=rng.choice([1, 2])), reverse=True):
        code, _ = run(keep, die_at)
        deaths += code != 0
    assert deaths
    code, result = run(keep, 0)
    assert code == 0
    assert result["passed"]
    for name in expected.keys() - set(OF_THE_ROAD):
        assert result[name] == expected[name], name
    assert samples(keep).equals(samples(whole))
