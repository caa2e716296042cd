"""Events per second from the broker to an agent: benchmark ``ingest``.

Three readers take the same events from the same mock broker (librdkafka's, real Kafka over TCP), each until it has
decoded all of them:

``stock``     an ordinary Faust agent on Faust's aiokafka driver, JSON decoded per message
``dovetail``  a stage on the coalescing driver, a poll decoded at once with ``pyarrow.json``
``aiokafka``  ``AIOKafkaConsumer.getmany`` and the same decoding, without Faust

The mock broker keeps about 5 MB of a partition, so events come in rounds that fit, each round on a topic of its own; a
reader's clock runs from its first event to its last, which leaves out joining the group.

    python benchmarks/ingest.py [--rounds 3] [--events 200000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import logging
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import aiokafka
import faust
import pyarrow as pa
import pyarrow.json as pj
from confluent_kafka import Producer

from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Poll, Stage, Work

SEED = 20240601
PARTITIONS = 4  # what the mock broker gives a topic
SCHEMA = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("action", pa.string()), ("price", pa.string())])
TARGETS = {"stock": 25.0, "aiokafka": 0.5}


def events(count: int, seed: int) -> list[bytes]:
    draw = random.Random(seed)
    return [
        b'{"user_id":%d,"item_id":%d,"action":"%s","price":"%d.%02d"}'
        % (
            draw.randrange(10**6),
            draw.randrange(10**5),
            draw.choice([b"click", b"impression"]),
            *divmod(draw.randrange(9999), 100),
        )
        for _ in range(count)
    ]


def decode(values: Sequence[bytes | None]) -> int:
    """Rows of a poll of JSON events, through one parse."""
    lines = pa.py_buffer(b"\n".join(value for value in values if value is not None))
    options = pj.ParseOptions(explicit_schema=SCHEMA)
    rows: int = pj.read_json(pa.BufferReader(lines), parse_options=options).num_rows
    return rows


class Stopwatch:
    """Runs from the first event to the last."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self.started = self.stopped = 0.0
        self.finished = asyncio.Event()

    def begin(self) -> None:
        if not self.started:
            self.started = time.perf_counter()

    def add(self, count: int) -> None:
        self.count += count
        if self.count >= self.expected:
            self.stopped = time.perf_counter()
            self.finished.set()

    @property
    def rate(self) -> float:
        return self.count / (self.stopped - self.started)


async def read_stock(servers: str, topic: str, watch: Stopwatch) -> None:
    app = faust.App(
        f"stock-{topic}",
        broker=f"kafka://{servers}",
        web_enabled=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        datadir=tempfile.mkdtemp(),
    )

    async def agent(stream: Any) -> None:
        async for _ in stream:
            watch.begin()
            watch.add(1)

    app.agent(app.topic(topic, value_serializer="json"))(agent)
    await app.start()
    await watch.finished.wait()
    await app.stop()


class Decoding(Stage):
    name = "decoding"

    def __init__(self, topic: str, watch: Stopwatch) -> None:
        self.topics = (topic,)
        self.watch = watch

    def resume(self, topic: str) -> Mapping[int, int]:
        return {}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.watch.begin()
        self.watch.add(decode(poll.values))
        yield Work(done=poll.last + 1)


async def read_dovetail(servers: str, topic: str, watch: Stopwatch) -> None:
    app = create_app(f"dovetail-{topic}", f"kafka://{servers}", topics={topic: PARTITIONS})
    runtime = Runtime(app, [Decoding(topic, watch)])
    await runtime.start()
    await watch.finished.wait()
    await runtime.stop()


async def read_aiokafka(servers: str, topic: str, watch: Stopwatch) -> None:
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=f"bare-{topic}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
        max_poll_records=10_000,
    )
    await consumer.start()
    while not watch.finished.is_set():
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            watch.begin()
            watch.add(decode([record.value for record in records]))
    await consumer.stop()


READERS = {"stock": read_stock, "dovetail": read_dovetail, "aiokafka": read_aiokafka}


def measure(reader: str, servers: str, topic: str, count: int) -> float:
    """Events per second of one reader, in a process of its own."""
    logging.disable(logging.CRITICAL)

    async def main() -> float:
        watch = Stopwatch(count)
        await READERS[reader](servers, topic, watch)
        return watch.rate

    return asyncio.run(main())


def run(rounds: int, count: int) -> dict[str, list[float]]:
    broker = Producer(
        {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0, "queue.buffering.max.messages": 10**6}
    )
    servers = ";".join(f"{each.host}:{each.port}" for each in broker.list_topics(timeout=10).brokers.values())
    rates: dict[str, list[float]] = {reader: [] for reader in READERS}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        for round_ in range(rounds):
            topic = f"events-{round_}"
            broker.list_topics(topic, timeout=10)
            for number, event in enumerate(events(count, SEED + round_)):
                broker.produce(topic, event, partition=number % PARTITIONS)
            if broker.flush(60):
                raise RuntimeError("the mock broker did not take all events")
            # In another order each round, so that none always finds the broker's memory warm.
            for reader in sorted(READERS, key=lambda name: (list(READERS).index(name) + round_) % len(READERS)):
                rates[reader].append(process.submit(measure, reader, servers, topic, count).result())
    return rates


def report(rates: Mapping[str, Sequence[float]], count: int) -> dict[str, Any]:
    medians = {reader: statistics.median(values) for reader, values in rates.items()}
    packages = ("faust-streaming", "mode-streaming", "aiokafka", "pyarrow", "confluent-kafka")
    return {
        "benchmark": "ingest",
        "seed": SEED,
        "events_per_round": count,
        "rounds": len(next(iter(rates.values()))),
        "events_per_second": {reader: round(rate) for reader, rate in medians.items()},
        "ratio": {other: round(medians["dovetail"] / medians[other], 2) for other in TARGETS},
        "target": TARGETS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000, help="per round; 5 MB per partition must hold them")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = report(run(options.rounds, options.events), options.events)
    if options.json:
        print(json.dumps(result))
        return
    for reader, rate in result["events_per_second"].items():
        print(f"{reader:10} {rate:>10,} events/s")
    for other, ratio in result["ratio"].items():
        print(f"dovetail / {other}: {ratio} (target {TARGETS[other]})")
    print(f"{result['machine']}; Python {result['python']}; {result['versions']}; seed {SEED}, {options.events} events")


if __name__ == "__main__":
    main()
