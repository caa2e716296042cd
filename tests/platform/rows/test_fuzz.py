"""Damaged messages by the thousand, in processes of their own: none ends one, and each is rows or a letter.

``DOVETAIL_FUZZ`` is how many messages of each kind; ``make nightly`` sends 200,000.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.platform.rows.mutator import MUTATORS

MESSAGES = int(os.environ.get("DOVETAIL_FUZZ", "3000"))
PER_PROCESS = 50_000
#: What a process may take, in bytes: several times a message's allowance, a third of what a small one once took.
MEMORY = 1_000_000_000
#: Another one every night would find more; this one finds again what it found.
SEED = 20240601


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MUTATORS))
def test_no_message_stops_a_worker(kind: str, tmp_path: Path) -> None:
    done = 0
    for seed in range(SEED, SEED + -(-MESSAGES // PER_PROCESS)):
        count = min(PER_PROCESS, MESSAGES - done)
        at = tmp_path / "at"
        command = [
            sys.executable,
            "-m",
            "tests.platform.rows.fuzzing",
            kind,
            str(seed),
            str(count),
            str(MEMORY),
            str(at),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{kind}, seed {seed}, poll {at.read_text()}: {ended.stderr[-3_000:]}"
        found = json.loads(ended.stdout)
        assert found["rows"] > 0
        assert found["dead"] > 0
        done += found["messages"]
    assert done >= MESSAGES


@pytest.mark.parametrize("kind", sorted(MUTATORS))
def test_a_seed_gives_the_same_messages_again(kind: str) -> None:
    one, other = random.Random(1), random.Random(1)
    assert [MUTATORS[kind](one) for _ in range(50)] == [MUTATORS[kind](other) for _ in range(50)]
