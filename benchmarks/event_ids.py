"""What ids cost a reader: rows admitted per second with and without them, on SQLite, one process.

python -m benchmarks.event_ids [--rows 200000] [--poll 5000] [--window 3600]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.platform.rows import wire
from dovetail.platform.rows.identity import EventIds, EventMemory
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.stage import Poll
from dovetail.platform.stores.registry.store import Registry

_ROWS_PER_SECOND = 100
_SQL = "CREATE TABLE e (id VARCHAR, user_id BIGINT, event_time TIMESTAMP NOT NULL)"


def polls(rows: int, most: int) -> Iterator[Poll]:
    """Polls of messages of 500 rows, a hundredth of them repetitions of what was 50 rows before."""
    for first in range(0, rows, most):
        numbers = np.arange(first, min(first + most, rows))
        times = pa.array(numbers * (1_000_000 // _ROWS_PER_SECOND), pa.int64()).cast(pa.timestamp("us"))
        named = np.where(numbers % 100 == 99, numbers - 50, numbers)
        ids = pa.array([f"4f1c9a2e-0000-4000-8000-{number:012d}" for number in named.tolist()])
        table = pa.table({"id": ids, "user_id": numbers % 1_000, "event_time": times})
        values = [wire.encode(table.slice(at, 500)) for at in range(0, table.num_rows, 500)]
        offsets = np.arange(first // 500, first // 500 + len(values), dtype=np.int64)
        yield Poll("e", 0, offsets, np.zeros(len(values), np.int64), [None] * len(values), values, [()] * len(values))


def seconds(intake: Intake, rows: int, most: int) -> tuple[float, int]:
    """How long admitting takes, and how many rows were events."""
    given, events = list(polls(rows, most)), 0
    began = time.perf_counter()
    for poll in given:
        events += intake.admit(poll).table.num_rows
    return time.perf_counter() - began, events


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 200_000), ("poll", 5_000), ("window", 3_600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    file = Path("e.sql")
    schema = parse_table(parse_statements(file, _SQL)[0], file)
    plain, events = seconds(Intake(schema, "event_time", None), given.rows, given.poll)
    print(f"without ids  {plain * 1e6 / given.rows:6.2f} µs a row  {events:,} events")
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(f"sqlite:///{folder}/registry.sqlite")
        ids, memory = EventIds("id", given.window * 1_000_000), EventMemory(registry.events)
        known, events = seconds(Intake(schema, "event_time", None, ids=ids, memory=memory), given.rows, given.poll)
        registry.close()
        size = Path(folder, "registry.sqlite").stat().st_size
    print(f"with ids     {known * 1e6 / given.rows:6.2f} µs a row  {events:,} events  registry {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
