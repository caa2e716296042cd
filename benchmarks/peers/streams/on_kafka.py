"""The day of events on a real Kafka, one partition, keyed by user; and how the answers of its last hour must agree."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from . import data

#: What comes a day later closes all windows of the day; Dovetail's topic does not need it.
END = {"user_id": "end", "event_time": "2023-11-16 12:00:00.001", "action": "end", "cents": 0}
TOPICS = ("events", "events-closed")


def broker_of(folder: Path) -> str:
    """``kafka://HOST:PORT``."""
    url: str = json.loads((folder / "servers.json").read_text(encoding="utf-8"))["kafka"]
    return url


def prepare(folder: Path, scale: float) -> tuple[int, str]:
    """Write the lines of :mod:`.data`, and send each to both topics; how many windows there are is kept in a file."""
    events, about = data.prepare(folder, scale)
    broker = broker_of(folder).partition("//")[2]
    admin = AdminClient({"bootstrap.servers": broker})
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in TOPICS]).values():
        made.result()
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    users = [json.loads(line)["user_id"] for line in lines]
    producer = Producer({"bootstrap.servers": broker, "queue.buffering.max.messages": 10**7})
    for topic in TOPICS:
        for user, line in zip(users, lines, strict=True):
            producer.produce(topic, line, key=user)
    producer.produce("events-closed", json.dumps(END), key="end")
    producer.flush(60)
    table = pj.read_json(folder / "events.jsonl")
    hours = pc.floor_temporal(table.column("event_time").cast(pa.timestamp("us")), unit="hour")
    windows = pa.table({"user": table.column("user_id"), "hour": hours}).group_by(["user", "hour"]).aggregate([])
    (folder / "windows.json").write_text(json.dumps(windows.num_rows), encoding="utf-8")
    return events, f"{about} Sent to Kafka beforehand, in one partition. Kafka itself is not counted."


def same_last_hour(ours: pa.Table, theirs: pa.Table) -> str:
    """The rows of the last hour are equal; others Dovetail was not asked for."""
    theirs = theirs.select(list(data.COLUMNS)).cast(ours.schema)
    last = theirs.filter(pc.equal(theirs.column("hour"), data.HOURS - 1))
    if not last.equals(ours):
        raise data.DifferentError(f"{last.num_rows} rows {last.slice(0, 3)}, Dovetail {ours.num_rows}")
    return f"the {ours.num_rows:,} rows of the last hour, of {theirs.num_rows:,}, equal Dovetail's"
