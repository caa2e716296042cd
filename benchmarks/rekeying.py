"""What a view by item costs a request when its stream is keyed by user, over 1, 16 and 64 partitions, and re-keyed.

    python benchmarks/rekeying.py

The same 400,000 events go through the feature stage, the stream in so many partitions; then 200 candidates a request
read ``item_stats`` from SQLite, all in one process. Beside it: rows a second through the re-keying stage, Arrow in and
Arrow out, into 16 partitions.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.app.datasets import stream_intake
from dovetail.features import Project, load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.platform.rows import wire
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage

SEED, EVENTS, USERS, ITEMS, PER_MESSAGE = 20240306, 400_000, 20_000, 2_000, 5_000
CANDIDATES, REQUESTS, REKEYED = 200, 200, 16
START_US, WEEK_US = 1_700_000_000_000_000, 7 * 86_400_000_000
ACTIONS = np.array(["impression", "browse", "click", "cart", "order"])


def project_of(folder: Path, partitions: int) -> Project:
    """The shipped project, its stream in ``partitions``; ``item_stats`` reads it re-keyed, ``spread`` as it comes."""
    root = Path(__file__).parent.parent
    shutil.copytree(root / "sql", folder / "sql", dirs_exist_ok=True)
    view = (root / "sql" / "item_stats.sql").read_text()
    (folder / "sql" / "spread.sql").write_text(view)
    (folder / "sql" / "item_stats.sql").write_text(view.replace("FROM behaviour\n", "FROM behaviour_by_item\n"))
    rekeyed = {"behaviour_by_item": {"stream": "behaviour", "key": "item_id", "partitions": REKEYED}}
    return load(root, sql=str(folder / "sql"), streams={"behaviour": {"partitions": partitions}}, rekeyed=rekeyed)


def events(project: Project) -> pa.Table:
    """A week of behaviour in order of time; popular items have most of it."""
    rng, weights = np.random.default_rng(SEED), 1 / (np.arange(ITEMS) + 20.0)
    columns = {
        "user_id": np.char.add("u", rng.integers(0, USERS, EVENTS).astype(str)),
        "item_id": rng.choice(ITEMS, EVENTS, p=weights / weights.sum()),
        "event_time": START_US + np.sort(rng.integers(0, WEEK_US, EVENTS)),
        "action": ACTIONS[rng.choice(len(ACTIONS), EVENTS, p=[0.5, 0.3, 0.15, 0.03, 0.02])],
        "price": rng.integers(1, 1_000, EVENTS).astype(np.int32),
    }
    schema = project.streams["behaviour"].schema.arrow
    return pa.table([pa.array(columns[f.name]).cast(f.type) for f in schema], schema=schema)


def messages(table: pa.Table, partitions: int) -> list[Outgoing]:
    """``table`` as Arrow messages, each user's rows in one partition."""
    numbers = np.char.lstrip(np.asarray(table.column("user_id").to_pylist()), "u").astype(int) % partitions
    found = []
    for start in range(0, table.num_rows, PER_MESSAGE * partitions):
        part, of = table.slice(start, PER_MESSAGE * partitions), numbers[start : start + PER_MESSAGE * partitions]
        for number in range(partitions):
            mine = part.filter(pa.array(of == number))
            found.append(
                Outgoing("behaviour", wire.encode(mine), partition=number, timestamp_ms=(START_US + WEEK_US) // 1_000)
            )
    return found


def measure(partitions: int, folder: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """By view: states per key and milliseconds a request (median, CPU); and rows re-keyed per second."""
    folder.mkdir()
    project = project_of(folder, partitions)
    store = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
    registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
    log = MemoryLog({"behaviour": partitions, "behaviour_by_item": REKEYED, "dead": 1})
    log.append(messages(events(project), partitions))
    by_item = project.streams["behaviour_by_item"]
    intake = stream_intake(project, "behaviour")
    rekey = RekeyStage(by_item, "behaviour", intake, registry, partitions=REKEYED, dead_letter_topic=None)
    spent = time.process_time()
    asyncio.run(run_stage(rekey, log, max_records=lambda: 4))
    rekeyed = EVENTS / (time.process_time() - spent)
    for name, view in (("behaviour", "spread"), ("behaviour_by_item", "item_stats")):
        plan = [project.stream_views[view]]
        stage = FeatureStage(project.streams[name], plan, stream_intake(project, name), store, dead_letter_topic="dead")
        asyncio.run(run_stage(stage, log, max_records=lambda: 4))
    found = {}
    for view in ("spread", "item_stats"):
        engine, rng = StreamEngine(project.stream_views[view]), np.random.default_rng(SEED)
        times, states = [], 0
        at = np.full(CANDIDATES, START_US + WEEK_US)
        for _ in range(REQUESTS):
            items = pa.array(rng.choice(ITEMS // 4, CANDIDATES, replace=False))
            spent = time.process_time()
            keys, codes = encode_keys([items])
            state = store.read({view: keys})[view]
            engine.values(state.blobs, state.key_index, codes, at, START_US + WEEK_US)
            times.append(time.process_time() - spent)
            states += len(state.blobs)
        found[view] = (states / REQUESTS / CANDIDATES, float(np.median(times)) * 1e3)
    store.close()
    registry.close()
    return found, rekeyed


def main() -> None:
    """One line per number of partitions."""
    with tempfile.TemporaryDirectory() as name:
        measure(1, Path(name) / "warm")
        for partitions in (1, 16, 64):
            found, rekeyed = measure(partitions, Path(name) / str(partitions))
            (states, spread), (one, together) = found["spread"], found["item_stats"]
            print(
                f"{partitions:3d} partitions: {states:5.1f} states a key, {spread:6.2f} ms a request; "
                f"re-keyed {one:.1f} states, {together:.2f} ms: {spread / together:.1f}x; "
                f"{rekeyed / 1e3:.0f} k rows/s re-keyed"
            )


if __name__ == "__main__":
    main()
