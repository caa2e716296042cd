"""Two workers and one on the same work, and how long the partitions of a dead worker stay unread.

Real Kafka, Redis and PostgreSQL, started here and removed; workers are processes. Ids and seeds are fixed. Workers are
ready before the first message is sent; time is taken from then until every stage but archive and trainer has stored
everything. Servers, sender and workers share the machine: on two cores, two workers have little of their own.

So it is measured again with commits that take LATENCY_MS longer, as they do where stores are other machines, and polls
of at most 100 messages, as they are where events come one by one (they grow while a commit waits, which would hide it).
Then workers wait more than they compute, and the ratio says what sharing the partitions gives.

    python benchmarks/scale_out.py [REQUESTS [LATENCY_MS]]
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import sqlalchemy as sa  # noqa: E402 - found by the line above

from scripts.servers import Kafka, PostgreSQL, Redis, remove, start  # noqa: E402
from tests.faults.broker import Broker  # noqa: E402
from tests.faults.fleet import Fleet, until  # noqa: E402
from tests.faults.trial import Load, Servers, Stored, Trial  # noqa: E402
from tests.faults.world import Urls, World, make_world  # noqa: E402

SEED = 1
SESSION_S = 6
SMALL_POLL = 100


def main(requests: int, latency_ms: int) -> None:
    """Print seconds, rows per second and the ratios, and the seconds until a dead worker's partitions are read."""
    folder = Path(tempfile.mkdtemp(prefix="dovetail-scale-out-"))
    own = Path(tempfile.mkdtemp(prefix="dovetail-scale-out-servers-"))
    try:
        kafka, redis, postgresql = start(own)
        assert isinstance(kafka, Kafka)
        assert isinstance(redis, Redis)
        assert isinstance(postgresql, PostgreSQL)
        servers = Servers(kafka, redis, postgresql)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        measure(world_of(folder, "warm", servers, 100), servers, 1, 0, dies=False)  # compiles the kernels
        for late_ms in (0, latency_ms):
            seconds = {}
            for workers in (1, 2):
                world = world_of(folder, f"scale{workers}late{late_ms}", servers, requests)
                seconds[workers] = measure(world, servers, workers, late_ms, dies=workers == 2 and not late_ms)
                rows = world.counts["events"] + world.counts["snapshot_rows"]
                print(f"{workers} worker(s): {seconds[workers]:.1f} s, {rows / seconds[workers]:,.0f} rows/s")
            ratio, load = seconds[1] / seconds[2], os.getloadavg()[0]
            print(f"ratio, two workers to one, commits {late_ms} ms late: {ratio:.2f}, load {load:.1f}")
    finally:
        remove(own)
        shutil.rmtree(folder, ignore_errors=True)


def world_of(folder: Path, name: str, servers: Servers, requests: int) -> World:
    """A world with a database schema of its own."""
    engine = sa.create_engine(servers.postgresql.url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    registry = f"{servers.postgresql.url}?options=-csearch_path%3D{name}"
    urls = Urls(servers.kafka.url, servers.redis.url, servers.redis.url, registry)
    return make_world(
        folder / name, name, urls, SEED, requests=requests, spread=True, session=f"{SESSION_S}s", partitions=4
    )


def measure(world: World, servers: Servers, workers: int, late_ms: int, *, dies: bool) -> float:
    """Seconds from the first message until all is read; then, with ``dies``, kill a worker."""
    broker = Broker(servers.kafka.url)
    faults = [f"late:{late_ms}", f"polls:{SMALL_POLL}"] if late_ms else ()
    with Fleet(world.folder, workers, faults=faults, forever=True) as fleet:
        trial = Trial(world, broker, fleet, servers, Load(world, broker))
        until(fleet.ready, "the workers are ready", say=fleet.logs)
        until(lambda: sum(w.partitions() for w in fleet.workers) == trial.partitions, "each partition has its worker")
        began = time.perf_counter()
        trial.load.start()
        trial.load.finish()
        with Stored(trial) as stored:
            until(lambda: not stored.behind(buffering=False), "everything is read", say=stored.say)
        seconds = time.perf_counter() - began
        if dies:
            left = fleet.workers[0]
            killed = time.perf_counter()
            fleet.lose(1)
            until(lambda: left.partitions() == trial.partitions, "its partitions have moved")
            moved = time.perf_counter() - killed
            print(f"killed: the other has its partitions after {moved:.1f} s, session time-out {SESSION_S} s")
    broker.close()
    return seconds


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000, int(sys.argv[2]) if len(sys.argv) > 2 else 200)
