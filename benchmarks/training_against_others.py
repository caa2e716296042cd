"""Training against Vowpal Wabbit and River on the same examples, one thread, in one run; and against the memory.

Needs the ``bench`` extra; what is not installed is left out and said so. Ids, seeds and sizes are fixed. Run it with
nothing else going on: ``python benchmarks/training_against_others.py``.

Vowpal Wabbit runs in this process through its Python package, and reads and trains inside its own C++; its seconds are
those from construction to the end of its data, so they include the few milliseconds of its start. It parses in one
thread and learns in another: beside the seconds on the clock stand the seconds of processor time, of both. Everything
runs in turns, several rounds, and the fastest of each counts: what else the machine does then slows all alike. From its
cache, its own binary format, it gets the slots Dovetail hashed to as integer names, so both train on the same examples;
as text it gets the columns' names and values, so both have them to hash.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from training import BITS, EXAMPLES, processor, zipf_samples

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, Int64
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers import Ftrl
from dovetail.trainer.samples.encoding import Encoded, Encoder, InputSpec

ROUNDS = 5
RIVER_EXAMPLES = 3_000
FTRL = Ftrl(alpha=0.1, beta=1.0, l1=0.1, l2=0.1)


@compiled_as_ieee
def chase(records: Float32, order: Int64) -> float:
    """Follow ``order`` through ``records``: each address is known only when the one before has been read."""
    at, total = 0, 0.0
    for _ in range(len(order)):
        total += records[at, 0]
        at = order[at]
    return total


@compiled_as_ieee
def gather(records: Float32, order: Int64) -> float:
    """Read ``records`` in a random order that is known beforehand: misses overlap."""
    total = 0.0
    for i in range(len(order)):
        total += records[order[i], 0]
    return total


def memory_ns() -> tuple[float, float]:
    """Nanoseconds per random 16-byte read of a table of 2**BITS records: dependent, and independent."""
    rng = np.random.default_rng(0)
    size = 1 << BITS
    records = np.ones((size, 4), np.float32)
    shuffled = rng.permutation(size)
    ring = np.empty(size, np.int64)
    ring[shuffled] = np.roll(shuffled, -1)
    times = fastest(
        {"dependent": Run(lambda _: chase(records, ring)), "independent": Run(lambda _: gather(records, shuffled))}
    )
    return times["dependent"].processor / size * 1e9, times["independent"].processor / size * 1e9


class Seconds(NamedTuple):
    """On the clock, and of processors."""

    clock: float
    processor: float


class Run(NamedTuple):
    """``action`` is measured, on what ``prepare`` makes."""

    action: Callable[[Any], object]
    prepare: Callable[[], object] = lambda: None


def fastest(runs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, Seconds]:
    """Each run in turn, ``rounds`` times, after one round that warms up; the least of either kind of seconds."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            given = run.prepare()
            start = time.perf_counter(), time.process_time()
            run.action(given)
            seconds[name].append(Seconds(time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: Seconds(*map(min, zip(*each[1:], strict=True))) for name, each in seconds.items()}


def new_records() -> Float32:
    """An untrained table whose every page has been touched."""
    records = FTRL.new_records(BITS)
    records[...] = records.copy()
    return records


def dovetail(table: pa.Table, encoder: Encoder, encoded: Encoded, labels: Float32) -> dict[str, Run]:
    """The kernel on encoded examples; and encoding Arrow columns, training and evaluating."""
    weights = np.ones(len(labels), np.float32)
    return {
        "dovetail, encoded": Run(lambda records: FTRL.train(records, encoded, labels, weights), new_records),
        "dovetail, from Arrow columns": Run(
            lambda learner: learner.learn(table),
            lambda: Learner(encoder, FTRL, label="clicked", evaluation=Evaluation(), records=new_records()),
        ),
    }


def vowpal_wabbit(
    table: pa.Table, encoded: Encoded, labels: Float32, folder: Path, seen: list[float]
) -> dict[str, Run]:
    """``--ftrl`` from text and from its cache; notes how many examples it has seen."""
    vw: Any = importlib.import_module("vowpalwabbit")
    options = (
        f"--ftrl --ftrl_alpha {FTRL.alpha} --ftrl_beta {FTRL.beta} --l1 {FTRL.l1} --l2 {FTRL.l2} "
        f"--loss_function logistic --noconstant -b {BITS} --quiet"
    )

    def run(more: str) -> None:
        workspace = vw.Workspace(f"{options} {more}")
        seen.append(workspace.get_weighted_examples())
        workspace.finish()

    integers, names, cache = (folder / name for name in ("integers.vw", "names.vw", "cache"))
    inputs = [name for name in table.column_names if name != "clicked"]
    columns = [[f"{name}={value}" for value in table.column(name).to_pylist()] for name in inputs]
    write_text(integers, encoded.slots.tolist(), labels)
    write_text(names, zip(*columns, strict=True), labels)
    run(f"-d {integers} --cache_file {cache} -k")
    return {
        "vw --ftrl, text": Run(lambda _: run(f"-d {names}")),
        "vw --ftrl, cache": Run(lambda _: run(f"-d {integers} --cache_file {cache}")),
    }


def write_text(path: Path, rows: Iterable[Iterable[object]], labels: Float32) -> None:
    """Vowpal Wabbit's text, all features in the unnamed namespace."""
    with path.open("w", encoding="utf-8") as file:
        for row, label in zip(rows, labels.tolist(), strict=True):
            file.write(f"{1 if label else -1} | {' '.join(map(str, row))}\n")


def river(encoded: Encoded, labels: Float32) -> dict[str, Seconds]:
    """River's FTRL, extrapolated to ``EXAMPLES`` examples from the first ``RIVER_EXAMPLES``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear_model = importlib.import_module("river.linear_model")
        optim = importlib.import_module("river.optim")
    rows = [dict.fromkeys(slots, 1.0) for slots in encoded.slots[:RIVER_EXAMPLES].tolist()]
    targets = labels[:RIVER_EXAMPLES].astype(bool).tolist()

    def run(_: object) -> None:
        model = linear_model.LogisticRegression(
            optimizer=optim.FTRLProximal(alpha=FTRL.alpha, beta=FTRL.beta, l1=FTRL.l1, l2=FTRL.l2), intercept_lr=0.0
        )
        for row, target in zip(rows, targets, strict=True):
            model.predict_proba_one(row)
            model.learn_one(row, target)

    (seconds,) = fastest({"": Run(run)}, 1).values()
    return {"river FTRLProximal": Seconds(*(each * EXAMPLES / RIVER_EXAMPLES for each in seconds))}


def main() -> None:
    table = zipf_samples(EXAMPLES)
    encoder = Encoder([InputSpec(name) for name in table.column_names if name != "clicked"], BITS)
    with_bias = encoder.encode(table)
    # Without the bias: 39 features on both sides.
    encoded = Encoded(np.ascontiguousarray(with_bias.slots[:, :-1]), np.ascontiguousarray(with_bias.values[:, :-1]))
    labels = table.column("clicked").to_numpy().astype(np.float32)
    features = encoded.slots.shape[1]
    missing = [name for name in ("vowpalwabbit", "river") if importlib.util.find_spec(name) is None]
    runs, seen = dovetail(table, encoder, encoded, labels), [float(EXAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        if "vowpalwabbit" not in missing:
            runs.update(vowpal_wabbit(table, encoded, labels, Path(folder), seen))
        rows = fastest(runs)
    if set(seen) != {float(EXAMPLES)}:
        raise RuntimeError(f"Vowpal Wabbit saw {seen} examples instead of {EXAMPLES}")
    if "river" not in missing:
        rows.update(river(encoded, labels))
    print(f"{processor()}; {EXAMPLES:,} examples of {features} categorical features, 2^{BITS} slots")
    for name, seconds in rows.items():
        each = [kind / EXAMPLES / features * 1e9 for kind in seconds]
        print(
            f"{name:<30} {EXAMPLES / seconds.clock:>12,.0f} examples/s  {each[0]:>8.1f} ns/feature on the clock, "
            f"{each[1]:>8.1f} of processors"
        )
    dependent, independent = memory_ns()
    print(
        f"random 16-byte read of a table of that size: {dependent:.1f} ns of processor time when dependent, "
        f"{independent:.1f} ns when independent"
    )
    for ours, other in (
        ("dovetail, encoded", "vw --ftrl, cache"),
        ("dovetail, encoded", "river FTRLProximal"),
        ("dovetail, from Arrow columns", "vw --ftrl, text"),
    ):
        if other in rows:
            ratios = [theirs / mine for theirs, mine in zip(rows[other], rows[ours], strict=True)]
            print(f"{ours} / {other}: {ratios[0]:.1f}x on the clock, {ratios[1]:.1f}x in processor time")
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")


if __name__ == "__main__":
    main()
