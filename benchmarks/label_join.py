"""The label-first join: speed of the match, leakage of the older way, a backlog against a trickle.

    python benchmarks/label_join.py

Every number is from this one run. Ids: match, leakage, backlog. The other older way is in ``feature_first.py``.
"""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from dovetail.joiners.label_agent import LabelStage, label_scope
from dovetail.joiners.matching import chance, keys_of, match_labels
from dovetail.joiners.meanings.judging import SampleRule
from dovetail.joiners.policies import Candidates, policy_of
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.sample_agent import LabelClock, SampleStage, SampleTarget, lanes_of
from dovetail.joiners.values.kind_rules import KindRule, LabelNeeds
from dovetail.joiners.watermark import PartitionClock, watermark
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake, time_us
from dovetail.platform.rows.positions import Progress, SourceFilter, with_own_positions, with_source_positions
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage

SEED = 20240304
CANDIDATES, EXPOSED, FEATURES = 200, 10, 20
CLICK_RATE = 0.1
START = 1_709_500_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
WINDOW = 15 * MINUTE
POLICY = PolicyConfig.model_validate({"window": "15m"})


def best_of(repeat: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def snapshots(random: np.random.Generator, first: int, requests: int, gap_us: int) -> pa.Table:
    """``requests`` requests of 200 candidates, ``gap_us`` apart, with their features and positions."""
    n = requests * CANDIDATES
    number = np.repeat(np.arange(first, first + requests, dtype=np.int64), CANDIDATES)
    items = np.concatenate([random.choice(50_000, CANDIDATES, replace=False) for _ in range(requests)])
    columns = {
        "request_id": pa.array([f"request-{i:012d}" for i in range(first, first + requests)]).take(number - first),
        "item_id": pa.array(items, pa.int64()),
        "request_time": pa.array(START + number * gap_us, pa.int64()).cast(pa.timestamp("us")),
        "_request": pa.StructArray.from_arrays([pa.array(number, pa.int64())], names=["user_id"]),
    }
    columns |= {f"f{k}": pa.array(random.random(n)) for k in range(FEATURES)}
    columns["score"] = pa.array(np.full(n, 0.5, np.float32))
    columns["model_version"] = pa.array(np.zeros(n, np.int64))
    own = with_own_positions(pa.table(columns), 0, number, np.tile(np.arange(CANDIDATES, dtype=np.int32), requests))
    return with_source_positions(own)


def feedback(random: np.random.Generator, shown: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Exposures of ten candidates per request within a minute, and clicks on a tenth of them within ten minutes."""
    requests = shown.num_rows // CANDIDATES
    chosen = (np.arange(requests)[:, None] * CANDIDATES + np.arange(EXPOSED)).ravel()
    rows = shown.select(["request_id", "item_id"]).take(pa.array(chosen))
    at = time_us(shown, "request_time")[chosen] + random.integers(SECOND, MINUTE, len(chosen))
    clicked = np.flatnonzero(random.random(len(chosen)) < CLICK_RATE)
    click_at = at[clicked] + random.integers(SECOND, 9 * MINUTE, len(clicked))
    times = (pa.array(t, pa.int64()).cast(pa.timestamp("us")) for t in (at, click_at))
    exposures = rows.append_column("event_time", next(times))
    return exposures, rows.take(pa.array(clicked)).append_column("event_time", next(times))


def label_rows(kind: str, log: pa.Table) -> pa.Table:
    at = time_us(log, "event_time")
    n = len(at)
    columns = [
        log.column("request_id"), log.column("item_id").cast(pa.string()), pa.repeat(kind, n),
        pa.array(at), pa.array(at),
        pa.array(np.zeros(n, np.int32)), pa.array(np.arange(n)), pa.array(np.zeros(n, np.int32)),
    ]  # fmt: skip
    return pa.table(columns, schema=LABEL_ROWS)


def match() -> None:
    """Snapshot rows per second through key, match and decision, one core; the same with pyarrow's index_in."""
    random = np.random.default_rng(SEED)
    rows = snapshots(random, 0, 2_000, SECOND)
    exposures, clicks = feedback(random, rows)
    labels = pa.concat_tables([label_rows("exposure", exposures), label_rows("click", clicks)]).combine_chunks()
    policy = policy_of(POLICY)
    request_time, score = time_us(rows, "request_time"), rows.column("score").to_numpy()

    def decide() -> int:
        keys = keys_of(rows)
        matched = match_labels(keys, labels)
        effective, event = ({k: t[i] for k, t in matched.items()} for i in (0, 1))
        given = Candidates(request_time, effective, event, score, partial(chance, keys))
        return len(policy.decide(0, given).rows)

    def in_duckdb() -> int:
        connection = duckdb.connect(config={"threads": 1})
        connection.register("s", rows.select(["request_id", "item_id"]))
        connection.register("l", exposures)
        query = "SELECT count(*) FROM s JOIN l USING (request_id, item_id)"
        (count,) = connection.execute(query).fetchone() or (0,)
        return int(count)

    assert decide() == in_duckdb() == exposures.num_rows
    ours, theirs = best_of(5, decide), best_of(5, in_duckdb)
    print(f"match: {rows.num_rows:,} snapshot rows, {exposures.num_rows:,} exposures, {clicks.num_rows:,} clicks")
    print(f"  key + match + decide      {rows.num_rows / ours / 1e6:6.2f} M rows/s")
    print(f"  DuckDB hash join, 1 thread {rows.num_rows / theirs / 1e6:5.2f} M rows/s (one label kind, no decision)")


def leakage() -> None:
    """Features looked up when the label comes have seen the label: AUC of an item's click count, both ways.

    Items are clicked at random, so nothing predicts anything: an honest AUC is 0.5.
    """
    random = np.random.default_rng(SEED)
    n = 100_000
    item, shown = random.integers(0, 20_000, n), np.sort(random.integers(0, DAY, n))
    clicked = random.random(n) < CLICK_RATE
    labelled = shown + random.integers(SECOND, WINDOW, n)
    connection = duckdb.connect(config={"threads": 1})
    connection.register("s", pa.table({"i": np.arange(n), "item": item, "shown": shown, "at": labelled, "y": clicked}))
    query = """SELECT s.i, any_value(s.y) AS y, count(c.i) FILTER (c.at <= s.shown) AS then,
                      count(c.i) FILTER (c.at <= s.at) AS later
               FROM s LEFT JOIN s c ON c.item = s.item AND c.y GROUP BY s.i"""
    result = connection.sql(query).to_arrow_table()
    y = result.column("y").to_numpy()
    served, late = (auc(y, result.column(name).to_numpy()) for name in ("then", "later"))
    print(f"leakage: {n:,} exposures of 20,000 items, clicks independent of everything; feature: clicks of the item")
    print(f"  AUC, feature as served (snapshot)   {served:.4f}")
    print(f"  AUC, feature looked up at the label {late:.4f}: {late - served:+.4f} that serving will not have")


def auc(y: np.ndarray[tuple[int], np.dtype[np.bool_]], x: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    values, counts = np.unique(x, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[np.searchsorted(values, x)]
    positive = int(y.sum())
    return float((rank[y].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive)))


def backlog() -> None:
    """Weeks of event time, all at once and a day at a time: the same samples; memory of a process of its own each."""
    runs = {"1 week": (7, False), "1 week, trickled": (7, True), "2 weeks": (14, False)}
    found = {}
    for name, (days, trickle) in runs.items():
        started = time.perf_counter()
        command = [sys.executable, __file__, "--replay", str(days), str(int(trickle))]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows, digest, left, resident, peak = json.loads(answer)
        found[name] = (rows, digest, peak)
        print(
            f"  {name:17s} {rows:8,} samples, digest {digest:016x}, {left:5,} label rows left, "
            f"peak {peak / 1e6:6.1f} MB, {time.perf_counter() - started:5.1f} s"
        )
        print(f"    resident after each day, MB: {' '.join(f'{at / 1e6:.0f}' for at in resident)}")
    same = found["1 week"][:2] == found["1 week, trickled"][:2]
    growth = found["2 weeks"][2] / found["1 week"][2]
    print(f"  the same samples: {same}; peak memory of 2 weeks / 1 week: {growth:.2f}")
    if not same:
        sys.exit(1)


class OnDisk(MemoryLog):
    """A log whose values lie in a file, so that the replay's memory is the agents'."""

    def __init__(self, topics: dict[str, int], file: Path) -> None:
        super().__init__(topics)
        self._file = file.open("w+b")

    def append(self, outgoing: object) -> None:
        stored = []
        for message in outgoing:  # type: ignore[attr-defined]
            at = self._file.seek(0, 2)
            self._file.write(message.value)
            place = f"{at}:{len(message.value)}".encode()
            stored.append(Outgoing(message.topic, place, partition=message.partition, headers=message.headers))
        super().append(stored)

    def poll(self, topic: str, partition: int, offset: int, max_records: int = 1_000_000) -> object:  # type: ignore[override]
        poll = super().poll(topic, partition, offset, max_records)
        if poll is None:
            return None
        values = []
        for place in poll.values:
            at, size = map(int, (place or b"0:0").split(b":"))
            self._file.seek(at)
            values.append(self._file.read(size))
        return type(poll)(poll.topic, poll.partition, poll.offsets, poll.timestamps_ms, poll.keys, values, poll.headers)


class _Waits(Exception):
    """The sample agent has nothing to do before more labels come."""


def _wait() -> None:
    raise _Waits


class _Own:
    """No batch features."""

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        return snapshot.select([f"f{k}" for k in range(FEATURES)])


def replay(days: int, *, trickle: bool) -> tuple[int, int, int, list[int]]:
    """Samples made of ``days`` days at one request a minute: how many, a digest, and label rows left in the store.

    And resident memory (bytes) each time a day's worth of samples has left.
    """
    resident: list[int] = []
    random = np.random.default_rng(SEED)
    ddl = "CREATE TABLE label (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL)"
    (statement,) = parse_statements(Path("labels.sql"), ddl)
    intake = Intake(parse_table(statement, Path("labels.sql")), "event_time", None)
    kinds = ("exposure", "click")
    with tempfile.TemporaryDirectory() as folder:
        log = OnDisk(dict.fromkeys([*kinds, "snapshots", "samples", "dead"], 1), Path(folder) / "log")
        store = SqlLabelStore(f"sqlite:///{folder}/labels.sqlite")
        (lane,) = lanes_of("", "snapshots", [])

        def now() -> int | None:
            clocks = {k: store.progress(label_scope(k)).get(0) for k in kinds}
            marks = {(k, 0): PartitionClock(clocks[k], lambda: 0) for k in kinds}  # nobody asks where a log ends
            return watermark(marks, allowed_lateness_us=WINDOW)

        def retire() -> None:
            boundary = boundary_us(
                (), LaneProgress(store, [lane], [0]), lambda topic, p: log.end_offsets(topic)[p], watermark_us=now(),
                longest_us=WINDOW, retention_us=HOUR,
            )  # fmt: skip
            while boundary is not None and store.retire(boundary):
                pass
            progress = store.progress(lane.name).get(0, Progress()).watermark_us or START
            if (progress - START) // DAY > len(resident) - 1:
                resident.append(_memory_bytes("VmRSS"))

        def stages() -> Iterator[LabelStage | SampleStage]:
            moved = Signal()
            for kind in kinds:
                needed = partial(LabelNeeds, KindRule(kind), WINDOW + HOUR)
                yield LabelStage(kind, kind, intake, store, allowed_lateness_us=WINDOW, needed=needed,
                                 dead_letter_topic="dead", moved=moved)  # fmt: skip
            target = SampleTarget(lane, "samples", lambda _: SampleRule(policy_of(POLICY), kinds, 0))
            yield SampleStage(target, store, _Own(), LabelClock(now, moved), on_blocked=_wait, on_released=retire)

        async def catch_up() -> None:
            for stage in stages():
                with suppress(_Waits):
                    await run_stage(stage, log, max_records=lambda: 6)

        for hour in range(24 * days):
            shown = snapshots(random, hour * 60, 60, MINUTE)
            exposures, clicks = feedback(random, shown)
            log.append([Outgoing("snapshots", wire.encode(shown), partition=0)])
            end = START + (hour + 1) * HOUR + (DAY if hour == 24 * days - 1 else 0)
            header = ((WATERMARK_HEADER, str(end).encode()),)
            for kind, rows in (("exposure", exposures), ("click", clicks)):
                messages = [Outgoing(kind, wire.encode(rows.sort_by("event_time")), partition=0)] if len(rows) else []
                log.append([*messages, Outgoing(kind, b"", partition=0, headers=header)])
            if trickle and hour % 24 == 23:
                asyncio.run(catch_up())
        asyncio.run(catch_up())
        left = store.rows()
        store.close()
        return *_digest(log), left, resident


def _digest(log: OnDisk) -> tuple[int, int]:
    """Number of samples and a digest of their keys and labels, in order."""
    count, digest, offset, seen = 0, 0, 0, SourceFilter()
    while (poll := log.poll("samples", 0, offset, 4)) is not None:
        rows = wire.decode_arrow(poll)  # type: ignore[arg-type]
        rows = rows.filter(pa.array(seen.admit(rows)))
        count += rows.num_rows
        hashes = keys_of(rows).hashes ^ (rows.column("label").to_numpy().astype(np.uint64) << np.uint64(1))
        for value in hashes.tolist():
            digest = (digest * 31 + value) % 2**64
        offset = int(rows.column("_offset").to_numpy().max()) + 1 if len(rows) else offset + 4
    return count, digest


def _memory_bytes(what: str) -> int:
    """Resident memory of this process (Linux): VmRSS now, VmHWM at its peak. ``ru_maxrss`` starts at the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    if sys.argv[1:2] == ["--replay"]:
        result = replay(int(sys.argv[2]), trickle=sys.argv[3] == "1")
        print(json.dumps([*result, _memory_bytes("VmHWM")]))
        return
    versions = f"Python {platform.python_version()}, pyarrow {pa.__version__}, DuckDB {duckdb.__version__}"
    print(f"{versions}, NumPy {np.__version__}")
    match()
    leakage()
    print("backlog: one request a minute, 200 candidates, ten exposed")
    backlog()


if __name__ == "__main__":
    main()
