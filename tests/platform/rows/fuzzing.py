"""A process that is given damaged messages: ``python -m tests.platform.rows.fuzzing KIND SEED COUNT MEMORY FILE``.

It sends ``COUNT`` of them, in polls that hold good ones too, through the intakes of a stream, of requests and of
labels, and on to the first that is done with rows, clocks and letters behind each. It ends with an error when a good
message is lost or changed, a message is neither rows nor a letter, or anything is raised. ``FILE`` holds the number of
the poll it is at, for whoever looks for what killed it; ``MEMORY`` is how many bytes it may take beyond those it starts
with.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import Progress
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.stage import Poll
from dovetail.platform.transports.embedded.headers import decode_headers, encode_headers
from tests.platform.rows.mutator import MUTATORS, header, sent_ms

DDL = """
CREATE TABLE event (
    user_id VARCHAR, event_time TIMESTAMP NOT NULL, item_id BIGINT, price DECIMAL(12,2), n BIGINT, small TINYINT,
    f FLOAT, d DOUBLE, ok BOOLEAN, day DATE, lists DOUBLE[][],
    st STRUCT(item_id BIGINT, t TIMESTAMP, p DECIMAL(18,4), d DATE)
);
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL, f FLOAT,
    candidates STRUCT(item_id BIGINT, position INTEGER, price DECIMAL(12,2), day DATE)[] NOT NULL
);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
POLL = 10
SENT_MS = 1_704_067_200_000
GOOD = (
    b'{"user_id":"good","request_id":"good","item_id":7,"event_time":"2024-01-01T00:00:00Z",'
    b'"request_time":"2024-01-01T00:00:00Z","price":1.25,"candidates":[{"item_id":7,"day":"2024-01-01"}]}'
)


def intakes() -> list[tuple[str, Intake, str]]:
    """Stream, requests and labels, each with its column of time."""
    tables = [parse_table(statement, Path("fuzz.sql")) for statement in parse_statements(Path("fuzz.sql"), DDL)]
    times = ["event_time", "request_time", "event_time"]
    return [(table.name, Intake(table, time, 10**18, _vet), time) for table, time in zip(tables, times, strict=True)]


def _vet(rows: pa.Table) -> dict[int, str]:
    """Computes as definitions do: over all rows, and fails on some."""
    if "n" in rows.column_names and 7 in rows.column("n").to_pylist():
        raise ArithmeticError("seven")
    return {}


def poll_of(kind: str, draw: random.Random, number: int) -> Poll:
    """A poll with a good message at each end, and damaged ones between."""
    values = [GOOD, *(MUTATORS[kind](draw) for _ in range(POLL)), GOOD]
    n = len(values)
    stamps = [SENT_MS, *(sent_ms(draw) if kind == "timestamps" else SENT_MS for _ in range(POLL)), SENT_MS]
    some = [tuple(header(draw) for _ in range(draw.randrange(3))) if kind == "headers" else () for _ in range(POLL)]
    offsets = np.arange(number * n, number * n + n, dtype=np.int64)
    return Poll("topic", 0, offsets, np.array(stamps, dtype=np.int64), [None] * n, values, [(), *some, ()])


def check(name: str, intake: Intake, time: str, poll: Poll) -> tuple[int, int]:
    """Rows and letters of a poll, each message accounted for."""
    received = intake.read(poll)
    at = received.table.column("_offset").to_numpy()
    letters = [letter.offset for letter in received.dead]
    announced = [offset for offset, _ in received.watermarks]
    accounted = {*at.tolist(), *letters, *announced}
    if accounted != set(poll.offsets.tolist()):
        raise AssertionError(f"{sorted(set(poll.offsets.tolist()) - accounted)} are neither rows nor letters")
    if len(at) and (at[1:] < at[:-1]).any():
        raise AssertionError("rows are not in the order of the log")
    ends = [row for row in received.table.to_pylist() if row["_offset"] in (poll.first, poll.last)]
    item = [row["candidates"][0]["item_id"] if name == "request" else row["item_id"] for row in ends]
    if item != [7, 7]:
        raise AssertionError(f"good messages became {ends}")
    received.table.validate(full=True)
    if name == "request":
        flatten_requests(received.table).validate(full=True)
    progress_after(poll, received, time, Progress())
    known_times_us(received, time, Progress(), 0)
    for out in wire.letters_to_outgoing("dead", poll, received.dead, "stage"):
        head = wire.letter_of(decode_headers(encode_headers(out.headers)))
        if not poll.first <= head.offset <= poll.last:
            raise AssertionError(f"a letter from {head.offset}")
    return received.table.num_rows, received.dead_rows


def main(kind: str, seed: int, count: int, memory: int, file: Path) -> None:
    """Send so many messages through; prints what became of them."""
    faulthandler.enable()
    entries = intakes()
    start = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (start + memory, start + memory))
    draw = random.Random(f"{kind} {seed}")
    rows = letters = 0
    with file.open("wb", buffering=0) as at:
        for number in range(-(-count // POLL)):
            at.seek(0)
            at.write(b"%d" % number)
            poll = poll_of(kind, draw, number)
            name, intake, time = entries[number % len(entries)]
            good, dead = check(name, intake, time, poll)
            rows, letters = rows + good, letters + dead
    sys.stdout.write(json.dumps({"messages": (number + 1) * POLL, "rows": rows, "dead": letters}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
