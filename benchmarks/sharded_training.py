"""A model on many workers: processor time by role, bytes by message, and what is lost to staleness.

**Cost.** Examples of 39 Zipf-distributed categorical inputs, 2^22 slots, batches of 1,024. Every role runs here, in
turns, with its messages as Arrow bytes; the processor time of each is its own, so that the slowest says what a pipeline
of machines would do (staleness above 0), and reducer and slowest shard together what it would do when each batch waits
for the one before (staleness 0). The time of networks is not in it. Two designs: by features (splitter, shards,
reducer), and by samples (a splitter that deals batches, workers in turns, shards). Reading rows, which is decoding and
hashing them, is measured by itself, and is the splitter's by features, the workers' by samples.

**Loss.** Progressive log-loss of exposures in order, batches of 8 and of 32 on 4 shards, as late as the bound allows,
beside that of staleness 0: of all exposures, from a model that knows nothing, and of the second half of them. Of the
simulator's shop, and of logs that ``dovetail demo`` can read, if their folders are given.

Run: ``python benchmarks/sharded_training.py [LOG…] [--plot FILE]``; with ``--cost`` without losses.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.demo.logs.find import find_log
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import SOURCE_COLUMNS, SourceFilter
from dovetail.platform.stage import Poll
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.metrics.charts import Chart, ChartLine
from dovetail.trainer.metrics.plots import write_plots
from dovetail.trainer.modes import train_batch
from dovetail.trainer.optimizers import DelayCompensated, Ftrl, Optimizer
from dovetail.trainer.samples.encoding import Encoded, Encoder, InputSpec
from dovetail.trainer.sharded.assembly import records_of
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchHeader, BatchPart, PartWeights, decode, encode
from dovetail.trainer.sharded.dealt_rows import BatchPredictions, BatchSamples
from dovetail.trainer.sharded.one_process import ShardedTrainer
from dovetail.trainer.sharded.reducer import Reducer
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.sample_worker import SampleWorker
from dovetail.trainer.sharded.shard import Shard
from dovetail.trainer.sharded.splitter import Splitter

INPUTS, BITS, ROWS, BATCHES = 39, 22, 1_024, 60
#: Batches that compile and fill caches, and are not counted.
WARM = 5
#: Batches that a batch's weights lack; None is no bound.
STALENESS = (0, 1, 4, None)
SHARDS = (1, 2, 4, 7, 20)
#: By samples; with a staleness of one less than these, all of them are at work.
WORKERS = (4, 20)
SMALL_BITS = 18
PLAIN = Ftrl(l1=0.01)
#: Name, optimizer and rows of a batch.
VARIANTS = tuple(
    (f"{called}, {rows} rows", optimizer, rows)
    for rows in (8, 32)
    for called, optimizer in (("plain", PLAIN), ("compensated", DelayCompensated(PLAIN)))
)
LOG_INPUTS = [
    *(InputSpec(name) for name in ("item_id", "category", "brand", "segment", "channel", "user_id")),
    InputSpec("position", "bucketed", tuple(float(position) for position in range(1, 11))),
    InputSpec(kind="cross", columns=("segment", "category")),
    InputSpec(kind="cross", columns=("segment", "item_id")),
]


class Clock:
    """Processor seconds by role."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, role: str) -> Iterator[None]:
        """Count what is done inside as ``role``'s."""
        start = time.process_time()
        yield
        self.seconds[role] = self.seconds.get(role, 0.0) + time.process_time() - start


def examples(rows: int, seed: int) -> tuple[Encoded, Float32, Float32]:
    """Examples whose inputs are values of 39 columns, the frequent ones far more often."""
    rng = np.random.default_rng(seed)
    values = rng.zipf(1.2, (rows, INPUTS)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    slots = ((values ^ (np.arange(INPUTS, dtype=np.uint64) << np.uint64(40))) >> np.uint64(20)).astype(np.uint32)
    labels = (rng.random(rows) < 0.2).astype(np.float32)
    return Encoded(slots & np.uint32((1 << BITS) - 1), np.ones((rows, INPUTS), np.float32)), labels, labels * 0 + 1


def cost(shards: int, batches: list[tuple[Encoded, Float32, Float32]], read: float) -> dict[str, float]:
    """Nanoseconds of processor time per example by role, and bytes by message; ``read`` is what reading rows takes."""
    optimizer, ring = Ftrl(l1=0.01), Ring(shards, BITS)
    blank = optimizer.new_records(BITS)
    members = [Shard(ring, number, optimizer, 0, records_of(ring, number, blank)) for number in range(shards)]
    splitter, reducer = Splitter(ring), Reducer()
    clock, sent = Clock(), Counter[str]()
    for number, batch in enumerate(batches):
        if number == WARM:
            clock, sent = Clock(), Counter[str]()
        with clock.of("splitter"):
            split = splitter.split(*batch)
            header, parts = encode(split.header), [encode(part) for part in split.parts]
        with clock.of("reducer"):
            done = reducer.take(_for_reducer(header))
        sent["header"] += len(header)
        for shard, part in zip(members, parts, strict=True):
            with clock.of(f"shard {shard.number}"):
                answers = [encode(message) for message in shard.take(_for_shard(part))]
            with clock.of("reducer"):
                for answer in answers:
                    done += reducer.take(_for_reducer(answer))
            sent["parts"] += len(part)
            sent["weights"] += sum(map(len, answers))
        with clock.of("reducer"):
            errors = encode(done[0].errors)
        sent["errors"] += len(errors) * shards
        for shard in members:
            with clock.of(f"shard {shard.number}"):
                shard.take(_for_shard(errors))
    trained = (len(batches) - WARM) * ROWS
    per = {role: seconds / trained * 1e9 for role, seconds in clock.seconds.items()}
    slowest = max(value for role, value in per.items() if role.startswith("shard"))
    splits, reduces = per["splitter"] + read, per["reducer"]
    return {
        "splitter": splits, "slowest shard": slowest, "reducer": reduces,
        "s = 0": 1e9 / max(slowest + reduces, splits), "s > 0": 1e9 / max(slowest, reduces, splits),
        **{f"{name} B": count / trained for name, count in sent.items()}, "B": sent.total() / trained,
    }  # fmt: skip


def rows_of(seed: int) -> pa.Table:
    """The samples of such a batch, before they are encoded."""
    rng = np.random.default_rng(seed)
    values = rng.zipf(1.2, (ROWS, INPUTS)).astype(np.uint64).view(np.int64)
    columns = {f"c{number}": values[:, number] for number in range(INPUTS)}
    numbers = np.arange(ROWS, dtype=np.int32)
    source = dict(zip(SOURCE_COLUMNS, (numbers * 0, numbers.astype(np.int64), numbers * 0), strict=True))
    return pa.table({**columns, "label": (rng.random(ROWS) < 0.2).astype(np.int8), **source})


def _message(content: bytes) -> Poll:
    at = np.zeros(1, np.int64)
    return Poll("batches", 0, at, at, [None], [content], [()])


def reading(tables: list[pa.Table]) -> float:
    """Nanoseconds of processor time per example of decoding rows and hashing them: the splitter's, or the worker's."""
    encoder, clock = Encoder([InputSpec(f"c{number}") for number in range(INPUTS)], BITS), Clock()
    room = encoder.room(ROWS)
    for number, content in enumerate(map(wire.encode, tables)):
        if number == WARM:
            clock = Clock()
        with clock.of("all"):
            encoder.encode(wire.decode_arrow(_message(content)), room=room)
    return clock.seconds["all"] / ((len(tables) - WARM) * ROWS) * 1e9


def cost_by_samples(
    shards: int, batches: list[tuple[Encoded, Float32, Float32]], tables: list[pa.Table], read: float
) -> dict[str, float]:
    """As :func:`cost`, by samples; one worker has all batches, and so what each of several has of its own."""
    optimizer, ring = Ftrl(l1=0.01), Ring(shards, BITS)
    blank = optimizer.new_records(BITS)
    members = [Shard(ring, number, optimizer, 0, records_of(ring, number, blank)) for number in range(shards)]
    worker, clock, sent = SampleWorker(ring, 0, 1), Clock(), Counter[str]()
    contents = [wire.encode(table) for table in tables]
    for number, (batch, content) in enumerate(zip(batches, contents, strict=True)):
        if number == WARM:
            clock, sent = Clock(), Counter[str]()
        with clock.of("splitter"):
            SourceFilter().admit(wire.decode_arrow(_message(content), columns=frozenset(SOURCE_COLUMNS)))
            dealt = encode(BatchSamples(number + 1, content, None, np.zeros((0, 3))))
        with clock.of("worker asks"):
            decode(dealt)
            parts = [encode(part) for part in worker.begin(number + 1, *batch)]
        answers = []
        for shard, part in zip(members, parts, strict=True):
            with clock.of(f"shard {shard.number}"):
                answers += [encode(message) for message in shard.take(_for_shard(part))]
        with clock.of("worker computes"):
            done = [computed for answer in answers for computed in worker.take(_answer(answer))]
            errors = [encode(each) for each in done[0].errors]
            predictions = encode(BatchPredictions(number + 1, done[0].predictions, batch[1]))
        for shard, gradients in zip(members, errors, strict=True):
            with clock.of(f"shard {shard.number}"):
                shard.take(_for_shard(gradients))
        sent["rows"] += len(dealt)
        sent["predictions"] += len(predictions)
        for name, messages in (("parts", parts), ("weights", answers), ("gradients", errors)):
            sent[name] += sum(map(len, messages))
    trained = (len(batches) - WARM) * ROWS
    per = {role: seconds / trained * 1e9 for role, seconds in clock.seconds.items()}
    slowest = max(value for role, value in per.items() if role.startswith("shard"))
    splits, asks, computes = per["splitter"], per["worker asks"] + read, per["worker computes"]
    bounds = {
        workers: (max(slowest + computes, asks / workers, splits), max(slowest, (asks + computes) / workers, splits))
        for workers in WORKERS
    }
    return {
        "splitter": splits, "slowest shard": slowest, "worker asks": asks, "worker computes": computes,
        **{f"s = 0, {workers} workers": 1e9 / synchronous for workers, (synchronous, _) in bounds.items()},
        **{f"s = {workers - 1}, {workers} workers": 1e9 / stale for workers, (_, stale) in bounds.items()},
        **{f"{name} B": count / trained for name, count in sent.items()}, "B": sent.total() / trained,
    }  # fmt: skip


def _answer(data: bytes) -> PartWeights:
    message = decode(data)
    assert isinstance(message, PartWeights)
    return message


def _for_reducer(data: bytes) -> BatchHeader | PartWeights:
    message = decode(data)
    assert isinstance(message, BatchHeader | PartWeights)
    return message


def _for_shard(data: bytes) -> BatchPart | BatchErrors:
    message = decode(data)
    assert isinstance(message, BatchPart | BatchErrors)
    return message


def one_process(batches: list[tuple[Encoded, Float32, Float32]]) -> float:
    """Nanoseconds of processor time per example of the same batches without shards."""
    optimizer = Ftrl(l1=0.01)
    records = optimizer.new_records(BITS)
    clock = Clock()
    for number, batch in enumerate(batches):
        if number == WARM:
            clock = Clock()
        with clock.of("all"):
            train_batch(optimizer, records, *batch)
    return clock.seconds["all"] / ((len(batches) - WARM) * ROWS) * 1e9


def exposures(log: RecordedLog) -> tuple[Encoded, Float32]:
    """Exposures in order of time, encoded, and whether each was clicked."""
    keys = ["request_id", "item_id"]
    nested = log.requests.column("candidates").combine_chunks()
    shown = log.requests.select(["request_id", "user_id", "segment", "channel"]).take(pc.list_parent_indices(nested))
    for name in ("item_id", "position"):
        shown = shown.append_column(name, pc.struct_field(nested.flatten(), name))
    first = {kind: log.labels[kind].group_by(keys).aggregate([("event_time", "min")]) for kind in ("exposure", "click")}
    clicks = first["click"].rename_columns([*keys, "click_at"])
    table = first["exposure"].join(shown, keys).join(clicks, keys)
    items = log.items.group_by("item_id").aggregate([("category", "min"), ("brand", "min")])
    table = table.join(items, "item_id")
    table = table.rename_columns([name.removesuffix("_min") for name in table.column_names])
    table = table.sort_by([(name, "ascending") for name in ("event_time", *keys)])
    clicked = pc.is_valid(table.column("click_at")).combine_chunks()
    return Encoder(LOG_INPUTS, SMALL_BITS).encode(table), clicked.cast(pa.float32()).to_numpy().copy()


def progressive_loss(
    encoded: Encoded, labels: Float32, optimizer: Optimizer, staleness: int | None, rows: int
) -> tuple[float, float]:
    """Log-loss of all exposures, each predicted before it was trained on, and of the second half of them."""
    records = optimizer.new_records(SMALL_BITS)
    trainer = ShardedTrainer(records, optimizer, shards=4, staleness=staleness, seed=1)
    weights = np.ones(len(labels), np.float32)
    predicted = []
    for start in range(0, len(labels), rows):
        some = slice(start, start + rows)
        part = Encoded(encoded.slots[some], encoded.values[some])
        predicted.append(trainer.train(part, labels[some], weights[some]))
    p = np.concatenate(predicted).astype(np.float64)
    losses = -np.where(labels > 0, np.log(p), np.log1p(-p))
    return float(losses.mean()), float(losses[len(losses) // 2 :].mean())


def main() -> None:
    """Print both tables; draw the losses if asked to."""
    arguments = sys.argv[1:]
    plot = arguments[arguments.index("--plot") + 1] if "--plot" in arguments else None
    folders = [name for name in arguments if name not in ("--plot", "--cost", plot)]
    batches = [examples(ROWS, seed) for seed in range(BATCHES)]
    print(f"one process: {one_process(batches):,.0f} ns per example")
    tables = [rows_of(seed) for seed in range(BATCHES)]
    read = reading(tables)
    print(f"reading rows: {read:,.0f} ns per example")
    for shards in SHARDS:
        found = cost(shards, batches, read)
        print(f"{shards:2} shards: " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items()))
    for shards in SHARDS:
        found = cost_by_samples(shards, batches, tables, read)
        print(f"{shards:2} shards by samples: " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items()))
    if "--cost" in arguments:
        return
    logs = {"simulator": simulate(SimulatorConfig(seed=5, days=3, requests=20_000, users=2_000, items=400))}
    logs |= {Path(folder).name: find_log(folder) for folder in folders}
    charts = []
    ticks = [(float(at), "async" if bound is None else f"s = {bound}") for at, bound in enumerate(STALENESS)]
    for name, log in logs.items():
        encoded, labels = exposures(log)
        print(f"{name}: {len(labels):,} exposures, {labels.mean():.4f} clicked")
        lines = []
        for called, optimizer, rows in VARIANTS:
            losses: list[tuple[float, float]] = []
            for staleness in STALENESS:
                losses.append(progressive_loss(encoded, labels, optimizer, staleness, rows))
                (all_0, half_0), (loss, half) = losses[0], losses[-1]
                told = "async" if staleness is None else f"s = {staleness}"
                more = f"{100 * (loss / all_0 - 1):+.3f} %, second half {100 * (half / half_0 - 1):+.3f} %"
                print(f"  {called:16} {told:7} {loss:.6f} {more}", flush=True)
            above = [100 * (loss / losses[0][0] - 1) for loss, _ in losses]
            lines.append(ChartLine(called, [at for at, _ in ticks], above))
        charts.append(Chart(f"{name}: log-loss above that of s = 0, in %", lines, ticks))
    if plot is not None:
        write_plots(Path(plot), "what staleness costs", charts)


if __name__ == "__main__":
    main()
