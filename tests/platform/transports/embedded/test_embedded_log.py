"""The embedded log by itself."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import LogLocked, TransportError
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.headers import decode_headers, encode_headers
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention
from dovetail.platform.transports.partitioning import partition_of_key


class Frozen:
    def now_us(self) -> int:
        return 1_234_567


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "log.db"


def messages(topic: str, count: int, size: int = 10, **options: object) -> list[Outgoing]:
    return [Outgoing(topic, b"%0*d" % (size, n), **options) for n in range(count)]  # type: ignore[arg-type]


def test_what_was_appended_is_read_back_after_reopening(path: Path) -> None:
    with EmbeddedLog.open(path, clock=Frozen()) as log:
        log.create_topic("t", 2)
        places = log.append(
            [
                Outgoing("t", b"a", key=b"k", partition=1, timestamp_ms=7, headers=(("h", b"\x00"), ("ü", b""))),
                Outgoing("t", b"b", partition=1),
                Outgoing("t", b"c", partition=0),
            ]
        )
        assert places == [(1, 0), (1, 1), (0, 0)]
    with EmbeddedLog.open(path) as log:
        assert log.topics() == {"t": 2}
        assert log.end_offsets("t") == {0: 1, 1: 2}
        assert log.start_offsets("t") == {0: 0, 1: 0}
        poll = log.read("t", 1, 0)
        assert poll is not None
        assert (poll.topic, poll.partition, poll.offsets.tolist()) == ("t", 1, [0, 1])
        assert poll.timestamps_ms.tolist() == [7, 1234]  # the second from the clock
        assert list(poll.keys) == [b"k", None]
        assert list(poll.values) == [b"a", b"b"]
        assert [list(headers) for headers in poll.headers] == [[("h", b"\x00"), ("ü", b"")], []]
        assert log.read("t", 1, 2) is None


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary())))
def test_headers_survive(headers: list[tuple[str, bytes]]) -> None:
    assert list(decode_headers(encode_headers(headers))) == headers


@given(key=st.binary(max_size=40), partitions=st.integers(1, 64))
def test_keys_go_where_kafka_puts_them(key: bytes, partitions: int) -> None:
    assert partition_of_key(key, partitions) == DefaultPartitioner()(key, list(range(partitions)), [])


def test_without_a_key_partitions_take_turns(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 3)
        assert log.append(messages("t", 7)) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]


def test_a_poll_keeps_to_its_budget_but_gives_at_least_one_message(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 1)
        log.append(messages("t", 20, size=100))
        for limits, expected in (({"max_bytes": 350}, 3), ({"max_records": 5}, 5), ({"max_bytes": 1}, 1), ({}, 20)):
            poll = log.read("t", 0, 0, **limits)
            assert poll is not None
            assert len(poll) == expected
        poll = log.read("t", 0, 18, max_bytes=200)
        assert poll is not None
        assert poll.offsets.tolist() == [18, 19]


def test_retention_by_age_is_measured_against_the_newest_message(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 1, retention=LogRetention(max_age_ms=100))
        log.append([Outgoing("t", b"", timestamp_ms=ms) for ms in (0, 50, 20, 100)])
        assert log.start_offsets("t") == {0: 0}
        log.append([Outgoing("t", b"", timestamp_ms=121)])
        assert log.start_offsets("t") == {0: 1}  # 0 is too old; 20 is too, but waits for 50
        log.append([Outgoing("t", b"", timestamp_ms=1000)])
        assert log.start_offsets("t") == {0: 5}
        poll = log.read("t", 0, 0)
        assert poll is not None
        assert poll.offsets.tolist() == [5]


def test_retention_by_bytes_and_offsets_never_given_twice(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 1, retention=LogRetention(max_bytes=30))
        log.append(messages("t", 10))
        assert log.start_offsets("t") == {0: 7}
        log.append([Outgoing("t", b"x" * 1000)])
        assert log.start_offsets("t") == {0: 10}  # the newest stays, whatever its size
    with EmbeddedLog.open(path) as log:
        assert log.append(messages("t", 1)) == [(0, 11)]
        log.create_topic("t", 1, retention=LogRetention())
        log.append(messages("t", 50))
        assert log.start_offsets("t") == {0: 11}


def test_a_topic_keeps_its_partitions(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 2)
        log.create_topic("t", 2)
        with pytest.raises(TransportError, match="has 2 partitions, 3 asked for"):
            log.create_topic("t", 3)
        with pytest.raises(TransportError, match="give at least 1"):
            log.create_topic("u", 0)


def test_unknown_topics_and_partitions_are_named_and_nothing_is_appended(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 2)
        with pytest.raises(TransportError, match=r"'u' is not in .*topics: t"):
            log.append([Outgoing("t", b""), Outgoing("u", b"")])
        with pytest.raises(TransportError, match="partitions 0 to 1; there is no 2"):
            log.append([Outgoing("t", b""), Outgoing("t", b"", partition=2)])
        assert log.end_offsets("t") == {0: 0, 1: 0}


def test_groups_remember_their_offsets(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.commit("g", {("t", 0): 5, ("t", 1): 6})
        log.commit("g", {("t", 0): 9})
        log.commit("other", {("t", 0): 1})
    with EmbeddedLog.open(path) as log:
        assert log.committed("g") == {("t", 0): 9, ("t", 1): 6}
        assert log.committed("nobody") == {}


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(TransportError, match="not an embedded log of format 1"):
        EmbeddedLog.open(other)
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(TransportError, match=r"cannot open the embedded log .*not a database"):
        EmbeddedLog.open(text)


def test_a_failed_append_leaves_nothing_behind(path: Path) -> None:
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 1)
        with pytest.raises(TransportError, match="cannot write the embedded log"):
            log.append([Outgoing("t", b"good"), Outgoing("t", [1])])  # type: ignore[arg-type]
        assert log.append([Outgoing("t", b"next")]) == [(0, 0)]


def test_listeners_hear_of_appends_from_any_thread(path: Path) -> None:
    heard: list[tuple[int, frozenset[tuple[str, int]]]] = []
    with EmbeddedLog.open(path) as log:
        log.create_topic("t", 3)
        end = log.listen(lambda where: heard.append((threading.get_ident(), where)))
        log.append(messages("t", 2))
        thread = threading.Thread(target=log.append, args=(messages("t", 1, partition=2),))
        thread.start()
        thread.join()
        end()
        log.append(messages("t", 1))
    assert [where for _, where in heard] == [{("t", 0), ("t", 1)}, {("t", 2)}]
    assert heard[0][0] == threading.get_ident() != heard[1][0]


def test_threads_share_one_log(path: Path) -> None:
    with EmbeddedLog.open(path) as first, EmbeddedLog.open(path) as second:
        assert first is second
        first.create_topic("t", 2)
        threads = [threading.Thread(target=second.append, args=(messages("t", 50),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(first.end_offsets("t").values()) == 400
        for partition in range(2):
            poll = first.read("t", partition, 0)
            assert poll is not None
            assert poll.offsets.tolist() == list(range(first.end_offsets("t")[partition]))


_HOLDER = """
import sys
from dovetail.platform.transports.embedded.log import EmbeddedLog
with EmbeddedLog.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_has_it(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(LogLocked, match=f"{path} is open in process {holder.pid}"):
            EmbeddedLog.open(path)
        holder.kill()
    with EmbeddedLog.open(path) as log:  # the lock died with the process
        assert log.topics() == {}


_APPENDER = """
import random, sys
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention
seed = int(sys.argv[2])
draw = random.Random(seed)
with EmbeddedLog.open(sys.argv[1]) as log:
    log.create_topic("t", 3, retention=LogRetention(max_bytes=200_000))
    n = sum(log.end_offsets("t").values())
    while True:
        size = draw.choice([1, 3, 200, 2000])
        log.append([Outgoing("t", b"%d" % (n + i) * draw.randrange(1, 9), partition=(n + i) % 3) for i in range(size)])
        n += size
        print(n, flush=True)
"""


@pytest.mark.slow
def test_kill_at_any_point_leaves_whole_appends_in_order(path: Path) -> None:
    draw = random.Random(20240601)
    acknowledged = 0
    for round_ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _APPENDER, str(path), str(round_)], stdout=subprocess.PIPE, text=True
        ) as appender:
            assert appender.stdout is not None
            for _ in range(draw.randrange(1, 60)):
                acknowledged = int(appender.stdout.readline())
            appender.kill()
            # Anything acknowledged before the kill arrived is in the pipe.
            acknowledged = max([acknowledged, *map(int, appender.stdout.read().splitlines(keepends=False)[:-1])])
        with EmbeddedLog.open(path) as log:
            ends, starts = log.end_offsets("t"), log.start_offsets("t")
            total = sum(ends.values())
            assert total >= acknowledged
            # Message n went to partition n % 3: a prefix of the appends has equal ends, give or take one.
            assert ends == {partition: (total - partition + 2) // 3 for partition in range(3)}
            for partition in range(3):
                offset = starts[partition]
                while (poll := log.read("t", partition, offset)) is not None:
                    assert poll.offsets.tolist() == list(range(offset, poll.last + 1))
                    for at, value in zip(poll.offsets.tolist(), poll.values, strict=True):
                        number = b"%d" % (3 * at + partition)
                        assert value == number * (len(value or b"") // len(number))
                    offset = poll.last + 1
                assert offset == ends[partition]
