"""Runs the contestants of a comparison in turn and compares their answers."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from scripts.servers import remove, start

from .contestants import Comparison, Contestant
from .environments import ROOT, EnvironmentNotMadeError, python_of


@dataclass
class Measured:
    """A contestant's rounds: processor seconds and seconds on the clock; ``said`` is how its answers agree."""

    title: str
    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    said: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The median of the rounds, of processor time."""
        return statistics.median(self.processor)


@dataclass(frozen=True)
class Outcome:
    """A comparison's figures; ``load`` is the machine's load average at its beginning and at its end."""

    comparison: Comparison
    rows: int
    about: str
    measured: list[Measured]
    left_out: list[str]
    load: tuple[float, float]


def run(comparison: Comparison, rounds: int, scale: float, tell: Callable[[str], None]) -> Outcome:
    """Measure all contestants whose environment can be made, one after the other in each round.

    Raises:
        DifferentAnswersError: a peer answers something else than Dovetail, and nothing explains it.
    """
    before, left_out = os.getloadavg()[0], []
    pythons: dict[str, str] = {}
    for contestant in comparison.contestants:
        try:
            pythons[contestant.title] = python_of(contestant.environment)
        except EnvironmentNotMadeError as error:
            left_out.append(f"{contestant.title} ({error})")
    contestants = [each for each in comparison.contestants if each.title in pythons]
    measured = {each.title: Measured(each.title) for each in contestants}
    with tempfile.TemporaryDirectory(prefix="dovetail-peers-") as name, _running(comparison.servers) as urls:
        folder = Path(name)
        (folder / "servers.json").write_text(json.dumps(urls), encoding="utf-8")
        rows, about = comparison.prepare(folder, scale)
        for number in range(rounds):
            for contestant in contestants if number % 2 == 0 else contestants[::-1]:
                _measure(contestant, pythons[contestant.title], folder, comparison.times, measured[contestant.title])
                tell(f"{comparison.name}: {contestant.title} {measured[contestant.title].processor[-1]:.2f} s")
            if number == 0:
                _compare(contestants, folder, measured)
    return Outcome(comparison, rows, about, list(measured.values()), left_out, (before, os.getloadavg()[0]))


@contextmanager
def _running(names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Servers in a folder of their own, by name their URLs; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dovetail-peers-servers-"))
    try:
        yield {server.name: server.url for server in (start(folder, names) if names else [])}
    finally:
        remove(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _measure(contestant: Contestant, python: str, folder: Path, times: int, into: Measured) -> None:
    command = [python, "-m", "benchmarks.peers.one", contestant.module, contestant.way, str(folder), str(times)]
    if not into.processor:
        command.append(str(_answers(folder, contestant)))
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{contestant.title} failed: {done.stderr[-4000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    into.processor.append(told["processor"])
    into.clock.append(told["clock"])
    into.versions = told["versions"]


def _answers(folder: Path, contestant: Contestant) -> Path:
    return folder / f"answers-{contestant.module}-{contestant.way}.arrow"


def _compare(contestants: list[Contestant], folder: Path, measured: dict[str, Measured]) -> None:
    tables: dict[str, pa.Table] = {
        each.title: feather.read_table(str(_answers(folder, each)), memory_map=False) for each in contestants
    }
    ours = tables[contestants[0].title]
    for each in contestants[1:]:
        if each.agrees is not None:
            measured[each.title].said = each.agrees(ours, tables[each.title])
