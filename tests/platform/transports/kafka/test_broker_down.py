"""A broker that is away for longer than a request may take: the worker ends and says so, its successor goes on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from scripts.servers import Kafka
from tests import forked

# Copies what it reads, and sums it into a store with its position. HOW=held: waits for a line before it publishes.
WORKER = """
import asyncio, os, sqlite3, sys
from dovetail.platform.errors import DovetailError
from dovetail.platform.process.monitor import Pulse
from dovetail.platform.process.lifecycle import leave, run_process
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Stage, Work

RUN, URL = sys.argv[1:]
STORE = sqlite3.connect("store.db", check_same_thread=False, isolation_level=None)
STORE.execute("CREATE TABLE IF NOT EXISTS state (position INTEGER PRIMARY KEY, total INTEGER)")

class Copying(Stage):
    name, topics = "copying", (RUN,)

    def resume(self, topic):
        return {0: self.stored()[0]}

    async def handle(self, poll):
        say("read")
        if os.environ.get("HOW") == "held":
            await asyncio.to_thread(sys.stdin.readline)
        copies = [Outgoing(f"{RUN}-copies", value, partition=0) for value in poll.values]
        yield Work(copies, lambda: self.commit(poll), poll.last + 1)
        say(f"done {poll.last + 1}")

    def stored(self):
        return STORE.execute("SELECT position, total FROM state").fetchone() or (0, 0)

    def commit(self, poll):
        total = self.stored()[1] + sum(map(int, poll.values))
        STORE.execute("BEGIN")
        STORE.execute("DELETE FROM state")
        STORE.execute("INSERT INTO state VALUES (?, ?)", (poll.last + 1, total))
        STORE.execute("COMMIT")

def say(line):
    os.write(1, b"%s\\n" % line.encode())

async def for_ever():
    await asyncio.Event().wait()

async def nothing():
    pass

app = create_app(RUN, URL, topics={RUN: 1, f"{RUN}-copies": 1}, producer_request_timeout=3.0,
                 broker_session_timeout=6.0, broker_heartbeat_interval=1.0)
try:
    run_process(Runtime(app, [Copying()]), watch=for_ever, pulse=Pulse(), stop_timeout_s=20, loop_timeout_s=0,
                on_started=nothing)
except DovetailError as error:
    sys.exit(f"{type(error).__name__}: {error}")
leave()
"""
COUNT = 100


def start(folder: Path, run: str, url: str, how: str = "") -> forked.Forked:
    return forked.start(
        ["worker.py", run, url],
        cwd=folder,
        env={**os.environ, "HOW": how},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def successors(folder: Path, run: str, url: str) -> int:
    """Start workers, one after the other as a supervisor does, until one has copied all; how that one ends.

    A broker that was paused answers before it leads its partitions again, and three seconds are all that a worker gives
    it to take a message.
    """
    for _ in range(20):
        with start(folder, run, url) as worker:
            assert worker.stdout is not None
            if any(line.strip() == f"done {COUNT}" for line in worker.stdout):
                worker.terminate()
                worker.communicate(timeout=60)
                return worker.wait()
            _, err = worker.communicate(timeout=60)
        assert "TransportError: " in err, err
    raise AssertionError(f"no worker has copied all: {err}")


@pytest.mark.services
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_publishing_while_the_broker_is_away_ends_the_worker_and_nothing_is_lost(
    tmp_path: Path, kafka_server: Kafka, fault: str
) -> None:
    run, address = f"down-{uuid.uuid4().hex[:8]}", kafka_server.url.removeprefix("kafka://")
    (tmp_path / "worker.py").write_text(WORKER)
    with start(tmp_path, run, kafka_server.url, "held") as worker:
        producer = Producer({"bootstrap.servers": address})
        for number in range(COUNT):
            producer.produce(run, b"%d" % number, partition=0)
        producer.flush()
        worker.read_until("read")
        kafka_server.kill() if fault == "killed" else kafka_server.pause()
        _, err = worker.communicate("\n", timeout=120)
    assert worker.returncode == 1
    assert "not stopped within" not in err  # by itself, and not by the time-out of a stop that waits for the broker
    last = err.strip().splitlines()[-1]
    assert last.startswith("TransportError: publishing ")
    assert f"messages to {run}-copies at {kafka_server.url}" in last
    kafka_server.resume()
    kafka_server.start()
    assert successors(tmp_path, run, kafka_server.url) == 0
    with sqlite3.connect(tmp_path / "store.db") as store:
        assert store.execute("SELECT * FROM state").fetchall() == [(COUNT, sum(range(COUNT)))]
    # What was published before the broker went may be there twice, each time in order.
    consumer = Consumer({"bootstrap.servers": address, "group.id": run, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(f"{run}-copies", 0, 0)])
    copies: list[int] = []
    while (
        not copies
        or copies[-1] != COUNT - 1
        or consumer.position([TopicPartition(f"{run}-copies", 0)])[0].offset
        < (consumer.get_watermark_offsets(TopicPartition(f"{run}-copies", 0))[1])
    ):
        copies += [int(m.value() or b"") for m in consumer.consume(1_000, timeout=1)]
    consumer.close()
    assert sorted(set(copies)) == list(range(COUNT))
    assert copies[-COUNT:] == list(range(COUNT)) or copies == list(range(COUNT))
