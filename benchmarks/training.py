"""Training throughput: FTRL over 39 Zipf-distributed features, 2**22 slots, one thread, with and without encoding.

Ids, seeds and sizes are fixed, so numbers of two runs may be compared on one machine. Seconds are of the processor, so
other work disturbs little, except where two threads run: ``python benchmarks/training.py``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.modes import train_batch, train_hogwild
from dovetail.trainer.optimizers import OPTIMIZERS, Ftrl, Optimizer
from dovetail.trainer.samples.encoding import Encoder, InputSpec

SEED = 39
EXAMPLES = 200_000
INTEGERS, STRINGS = 26, 13
BITS = 22
REPEATS = 5


def zipf_samples(examples: int) -> pa.Table:
    """39 categorical columns whose values follow a Zipf law (exponent 1.3), and a label some of them explain."""
    rng = np.random.default_rng(SEED)
    columns: dict[str, pa.Array] = {}
    signal = np.zeros(examples)
    for number in range(INTEGERS + STRINGS):
        values = np.minimum(rng.zipf(1.3, examples), 2**40)
        signal += (values % 7 - 3) / 10
        array = pa.array(values, pa.int64())
        columns[f"f{number:02d}"] = array if number < INTEGERS else array.cast(pa.string())
    columns["clicked"] = pa.array(rng.random(examples) < 1 / (1 + np.exp(1.5 - signal)))
    return pa.table(columns)


def best(
    action: Callable[[Float32], object],
    new_records: Callable[[], Float32],
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Seconds of the fastest of REPEATS runs, each from an untrained model, after one that compiles."""
    seconds = []
    for _ in range(REPEATS + 1):
        records = new_records()
        records[...] = records.copy()  # touch every page now, not while the clock runs
        start = clock()
        action(records)
        seconds.append(clock() - start)
    return min(seconds[1:])


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    table = zipf_samples(EXAMPLES)
    encoder = Encoder([InputSpec(name) for name in table.column_names if name != "clicked"], BITS)
    encoded = encoder.encode(table)
    labels = table.column("clicked").to_numpy().astype(np.float32)
    weights = np.ones(EXAMPLES, np.float32)
    print(
        f"{processor()}; Python {platform.python_version()}, numba {numba.__version__}, NumPy {np.__version__}, ",
        end="",
    )
    print(f"pyarrow {pa.__version__}")
    print(
        f"{EXAMPLES:,} examples, {encoder.width} inputs with the bias, {len(np.unique(encoded.slots)):,} slots touched"
    )
    rows: list[tuple[str, float]] = []
    optimizers: dict[str, Optimizer] = {
        "ftrl": Ftrl(l1=0.1, l2=0.1),
        "ftrl lr_power=0": Ftrl(l1=0.1, l2=0.1, lr_power=0.0),
        "ftrl lr_power=-0.3": Ftrl(l1=0.1, l2=0.1, lr_power=-0.3),
        **{name: kind() for name, kind in OPTIMIZERS.items() if name != "ftrl"},
    }
    for name, optimizer in optimizers.items():
        seconds = best(
            lambda records, optimizer=optimizer: optimizer.train(records, encoded, labels, weights),  # type: ignore[misc]
            lambda optimizer=optimizer: optimizer.new_records(BITS),  # type: ignore[misc]
        )
        rows.append((f"train/{name}", seconds))
    ftrl = Ftrl(l1=0.1, l2=0.1)
    for what, mode in {
        "train/ftrl, 2 threads": lambda records: train_hogwild(ftrl, records, encoded, labels, weights, threads=2),
        "train/ftrl, one batch": lambda records: train_batch(ftrl, records, encoded, labels, weights),
    }.items():
        # Of two threads the time on the clock counts.
        clock = time.perf_counter if "threads" in what else time.process_time
        rows.append((what, best(mode, lambda: ftrl.new_records(BITS), clock)))
    rows.append(("encode", best(lambda _: encoder.encode(table), lambda: np.zeros((1, 4), np.float32))))
    rows.append(
        (
            "encode+train+evaluate/ftrl",
            best(
                lambda records: Learner(encoder, ftrl, label="clicked", evaluation=Evaluation(), records=records).learn(
                    table
                ),
                lambda: ftrl.new_records(BITS),
            ),
        )
    )
    for name, seconds in rows:
        print(f"{name:<28} {EXAMPLES / seconds / 1e6:6.2f} M examples/s  ({rows[0][1] / seconds:4.2f} of {rows[0][0]})")


if __name__ == "__main__":
    main()
