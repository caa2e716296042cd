"""Online stores: keys committed and read per second, and bytes per key; SQLite, Redis and PostgreSQL in one run.

    python benchmarks/stores.py

Servers come from DOVETAIL_TEST_REDIS and DOVETAIL_TEST_POSTGRESQL (URLs); one that is not there is left out. What is
stored is removed. A state has 600 bytes, about what ten aggregates over three windows keep of a quiet key.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import redis
import sqlalchemy as sa

from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore, ViewCommit
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.sql.online import SqlOnlineStore

SEED, KEYS, STATE_BYTES = 20240305, 100_000, 600
DAY = 86_400_000_000
NAME = f"benchmark-{os.getpid()}"


def stores(folder: Path) -> Iterator[tuple[str, OnlineStore]]:
    yield "SQLite", open_online_store(f"sqlite:///{folder / 'online.sqlite'}", NAME)
    if url := os.environ.get("DOVETAIL_TEST_REDIS"):
        yield "Redis", open_online_store(url, NAME)
    if url := os.environ.get("DOVETAIL_TEST_POSTGRESQL"):
        schema = NAME.replace("-", "_")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
        yield "PostgreSQL", open_online_store(f"{url}?options=-csearch_path%3D{schema}", NAME)
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


def rate(keys: int, repeat: int, work: Callable[[], object]) -> float:
    """Keys per second of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return keys / min(times)


def measure(name: str, store: OnlineStore, retention_us: int | None) -> None:
    random = np.random.default_rng(SEED)
    keys = [int(key).to_bytes(8, "big") for key in random.permutation(KEYS)]
    state = random.bytes(STATE_BYTES)
    at = 0

    def commit(part: list[bytes]) -> None:
        nonlocal at
        change = ViewCommit("v", at, Progress(at + 1, at * 1_000_000), dict.fromkeys(part, state), retention_us)
        store.commit(0, [change], [Account("features.v", "t", 0, "read", len(part))])
        at += 1

    def chosen(size: int) -> list[bytes]:
        return [keys[i] for i in random.choice(KEYS, size, replace=False)]

    started = time.perf_counter()
    for start in range(0, KEYS, 10_000):
        commit(keys[start : start + 10_000])
    filled = KEYS / (time.perf_counter() - started)
    parts: dict[int, list[bytes]] = {size: chosen(size) for size in (200, 5_000)}
    writes = [rate(size, 7, lambda p=part: commit(p)) for size, part in parts.items()]  # type: ignore[misc]
    reads = [rate(size, 7, lambda p=part: store.read({"v": p})) for size, part in parts.items()]  # type: ignore[misc]
    for what, value in zip(
        ("new keys, 10,000 a commit", "known keys, 200 a commit", "known keys, 5,000 a commit", "read, 200 keys a call",
         "read, 5,000 keys a call"), (filled, *writes, *reads), strict=True,
    ):  # fmt: skip
        print(f"{name:11} {what:28} {value:12,.0f} keys/s")


def redis_memory(retention_us: int | None) -> None:
    with redis.Redis.from_url(os.environ["DOVETAIL_TEST_REDIS"]) as client:
        found = {key: client.memory_usage(key, samples=0) for key in client.scan_iter(f"{{{NAME}:*")}
        total = sum(size for size in found.values() if size)
        kind = "states that stay" if retention_us is None else "states that leave by age"
        print(f"{'Redis':11} {kind:28} {total / KEYS:12,.0f} bytes/key, {STATE_BYTES} of them the state")
        client.delete(*found)


def main() -> None:
    for retention_us in (DAY, None):
        print(f"{KEYS:,} keys of {STATE_BYTES} bytes, " + ("which leave by age" if retention_us else "which stay"))
        with tempfile.TemporaryDirectory() as folder:
            for name, store in stores(Path(folder)):
                measure(name, store, retention_us)
                if not isinstance(store, SqlOnlineStore):
                    redis_memory(retention_us)
                store.close()
    print(f"{platform.platform()}, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    if os.environ.get("DOVETAIL_TEST_REDIS"):
        print(subprocess.run(["redis-server", "--version"], check=False, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
