"""Training against Vowpal Wabbit and River on the same examples, one thread, in one run; and against the memory.

Needs the ``bench`` extra; what is not installed is left out and said so. Ids, seeds and sizes are fixed. Run it with
nothing else going on: ``python benchmarks/training_against_others.py``.

Vowpal Wabbit runs in this process through its Python package, and reads and trains inside its own C++; its seconds are
those from construction to the end of its data, so they include the few milliseconds of its start. It parses in one
thread and learns in another: beside the seconds on the clock stand the seconds of processor time, of both. From its
cache, its own binary format, it gets the slots Dovetail hashed to as integer names, so both train on the same examples;
as text it gets the columns' names and values, so both have them to hash.
"""

from __future__ import annotations

import importlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from training import BITS, EXAMPLES, processor, zipf_samples

from dovetail.trainer.encoding import Encoded, Encoder, InputSpec
from dovetail.trainer.evaluation import Evaluation
from dovetail.trainer.kernels import Float32, Int64, kernel
from dovetail.trainer.learner import Learner
from dovetail.trainer.optimizers import Ftrl

REPEATS = 3
RIVER_EXAMPLES = 3_000
FTRL = Ftrl(alpha=0.1, beta=1.0, l1=0.1, l2=0.1)


@kernel
def chase(records: Float32, order: Int64) -> float:
    """Follow ``order`` through ``records``: each address is known only when the one before has been read."""
    at, total = 0, 0.0
    for _ in range(len(order)):
        total += records[at, 0]
        at = order[at]
    return total


@kernel
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
    times = [fastest(lambda _: chase(records, ring)), fastest(lambda _: gather(records, shuffled))]
    return times[0].clock / size * 1e9, times[1].clock / size * 1e9


class Seconds(NamedTuple):
    """On the clock, and of processors."""

    clock: float
    processor: float


def fastest(
    action: Callable[[Any], object], repeats: int = REPEATS, prepare: Callable[[], object] = lambda: None
) -> Seconds:
    """The fastest of ``repeats`` runs of ``action`` on what ``prepare`` makes, after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        given = prepare()
        start = time.perf_counter(), time.process_time()
        action(given)
        seconds.append(Seconds(time.perf_counter() - start[0], time.process_time() - start[1]))
    return min(seconds[1:])


def new_records() -> Float32:
    """An untrained table whose every page has been touched."""
    records = FTRL.new_records(BITS)
    records[...] = records.copy()
    return records


def trained(encoded: Encoded, labels: Float32) -> Seconds:
    """Dovetail's kernel on encoded examples."""
    weights = np.ones(len(labels), np.float32)
    return fastest(lambda records: FTRL.train(records, encoded, labels, weights), prepare=new_records)


def learned(table: pa.Table, encoder: Encoder) -> Seconds:
    """Encoding Arrow columns, training and evaluating."""
    return fastest(
        lambda learner: learner.learn(table),
        prepare=lambda: Learner(encoder, FTRL, label="clicked", evaluation=Evaluation(), records=new_records()),
    )


def vowpal_wabbit(table: pa.Table, encoded: Encoded, labels: Float32) -> dict[str, Seconds]:
    """``--ftrl`` from text and from its cache."""
    vw: Any = importlib.import_module("vowpalwabbit")
    options = (
        f"--ftrl --ftrl_alpha {FTRL.alpha} --ftrl_beta {FTRL.beta} --l1 {FTRL.l1} --l2 {FTRL.l2} "
        f"--loss_function logistic --noconstant -b {BITS} --quiet"
    )
    seen = []

    def run(more: str) -> None:
        workspace = vw.Workspace(f"{options} {more}")
        seen.append(workspace.get_weighted_examples())
        workspace.finish()

    with tempfile.TemporaryDirectory() as folder:
        integers, names, cache = (Path(folder) / name for name in ("integers.vw", "names.vw", "cache"))
        inputs = [name for name in table.column_names if name != "clicked"]
        columns = [[f"{name}={value}" for value in table.column(name).to_pylist()] for name in inputs]
        write_text(integers, encoded.slots.tolist(), labels)
        write_text(names, zip(*columns, strict=True), labels)
        run(f"-d {integers} --cache_file {cache} -k")
        seconds = {
            "vw --ftrl, text": fastest(lambda _: run(f"-d {names}")),
            "vw --ftrl, cache": fastest(lambda _: run(f"-d {integers} --cache_file {cache}")),
        }
    if set(seen) != {float(len(labels))}:
        raise RuntimeError(f"Vowpal Wabbit saw {seen} examples instead of {len(labels)}")
    return seconds


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

    seconds = fastest(run, 1)
    return {"river FTRLProximal": Seconds(*(each * EXAMPLES / RIVER_EXAMPLES for each in seconds))}


def main() -> None:
    table = zipf_samples(EXAMPLES)
    encoder = Encoder([InputSpec(name) for name in table.column_names if name != "clicked"], BITS)
    with_bias = encoder.encode(table)
    # Without the bias: 39 features on both sides.
    encoded = Encoded(np.ascontiguousarray(with_bias.slots[:, :-1]), np.ascontiguousarray(with_bias.values[:, :-1]))
    labels = table.column("clicked").to_numpy().astype(np.float32)
    features = encoded.slots.shape[1]
    rows = {"dovetail, encoded": trained(encoded, labels), "dovetail, from Arrow columns": learned(table, encoder)}
    missing: list[str] = []
    measures: dict[str, Callable[[], dict[str, Seconds]]] = {
        "vowpalwabbit": partial(vowpal_wabbit, table, encoded, labels),
        "river": partial(river, encoded, labels),
    }
    for package, measure in measures.items():
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
            continue
        rows.update(measure())
    print(f"{processor()}; {EXAMPLES:,} examples of {features} categorical features, 2^{BITS} slots")
    for name, seconds in rows.items():
        per_feature = seconds.clock / EXAMPLES / features * 1e9
        print(
            f"{name:<30} {EXAMPLES / seconds.clock:>12,.0f} examples/s  {per_feature:>9.1f} ns/feature  "
            f"{seconds.processor / seconds.clock:.1f} threads"
        )
    dependent, independent = memory_ns()
    print(
        f"random 16-byte read of a table of that size: {dependent:.1f} ns dependent, {independent:.1f} ns independent"
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
