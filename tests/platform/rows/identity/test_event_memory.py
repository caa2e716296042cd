"""All readers of a topic agree on which rows are events, whoever dies where, and ids leave with their window."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.rows import wire
from dovetail.platform.rows.identity import EVENT_ID_HEADER, EventIds, EventMemory
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog
from tests.generated import tries
from tests.platform.polls import poll_of

WINDOW = 10
IDS = EventIds("name", WINDOW * 1_000_000)
FILE = Path("e.sql")


def schema() -> TableSchema:
    statement = "CREATE TABLE e (name VARCHAR, event_time TIMESTAMP NOT NULL)"
    return parse_table(parse_statements(FILE, statement)[0], FILE)


class Sent(NamedTuple):
    """A row ``second`` seconds after midnight with a name, or none."""

    name: str | None
    second: int


def value(sent: Sent) -> bytes:
    time = f"2024-01-01T00:{sent.second // 60:02d}:{sent.second % 60:02d}"
    return json.dumps({"name": sent.name, "event_time": time}).encode()


def events_of(rows: Sequence[Sent]) -> list[int]:
    """By brute force: the offsets of the rows that are events."""
    known: dict[str, int] = {}
    newest, events = 0, []
    for offset, sent in enumerate(rows):
        newest = max(newest, sent.second)
        if sent.name is not None and sent.name in known and newest - known[sent.name] <= WINDOW:
            continue
        if sent.name is not None:
            known[sent.name] = newest
        events.append(offset)
    return events


class Dying:
    """A registry's events; the process dies before or after the n-th decision."""

    def __init__(self, registry: Registry, dies: int | None) -> None:
        self._events, self._left = registry.events, dies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    def decide(self, *args: Any, **kwargs: Any) -> None:
        self._step()
        self._events.decide(*args, **kwargs)
        self._step()

    def _step(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise ZeroDivisionError


class Reader:
    """A stage that has committed up to ``at``, and what it takes for events; it lives many lives."""

    def __init__(self, log: MemoryLog, registry: Registry, ids: EventIds | None = IDS) -> None:
        self._log, self._registry, self._ids = log, registry, ids
        self.at, self.events = 0, list[int]()
        self.repeated = 0
        self.intake = self._intake(None)

    def _intake(self, dies: int | None) -> Intake:
        memory = EventMemory(Dying(self._registry, dies))
        return Intake(schema(), "event_time", None, ids=self._ids, memory=memory)

    def read(self, most: int, dies: int | None = None, *, forgets: bool = False) -> None:
        """One poll of so many messages at most; with ``dies`` or ``forgets`` its commit is lost; it starts again."""
        if dies is not None:
            self.intake = self._intake(dies)
        poll = self._log.poll("e", 0, self.at, most)
        if poll is None:
            return
        with suppress(ZeroDivisionError):
            received = self.intake.admit(poll)
            if dies is None and not forgets:
                self.events += received.table.column("_offset").to_pylist()
                self.repeated += received.repeated_rows
                self.at = poll.last + 1
                return
        self.intake = self._intake(None)


@contextmanager
def registry_in_a_folder() -> Iterator[Registry]:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(f"sqlite:///{Path(folder) / 'registry.sqlite'}")
        with closing(registry):
            yield registry


def log_of(rows: Sequence[Sent]) -> MemoryLog:
    log = MemoryLog({"e": 1})
    log.append([Outgoing("e", value(sent)) for sent in rows])
    return log


SENT = st.builds(Sent, st.sampled_from([None, "a", "b", "c"]), st.integers(0, 40))
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from([None, None, None, 0, 1]), st.booleans()),
    max_size=12,
)


@settings(max_examples=tries(60))
@given(rows=st.lists(SENT, max_size=20), steps=STEPS)
def test_readers_that_die_and_lag_take_the_same_rows_for_events(
    rows: list[Sent], steps: list[tuple[int, int, int | None, bool]]
) -> None:
    with registry_in_a_folder() as registry:
        log = log_of(rows)
        readers = [Reader(log, registry) for _ in range(3)]
        for number, most, dies, forgets in steps:
            readers[number].read(most, dies, forgets=forgets)
        for reader in readers:
            while reader.at < len(rows):
                reader.read(4)
            assert reader.events == events_of(rows)
            assert reader.repeated == len(rows) - len(reader.events)
        assert registry.events.repeated_before("e", 0, len(rows)) == len(rows) - len(events_of(rows))


def test_ids_leave_with_their_window_and_a_row_without_one_is_never_another() -> None:
    rows = [Sent(str(second), second) for second in range(40)] + [Sent(None, 39), Sent(None, 39)]
    with registry_in_a_folder() as registry:
        reader = Reader(log_of(rows), registry)
        while reader.at < len(rows):
            reader.read(7)
        assert len(reader.events) == 42
        keys = memory_keys(registry)
        assert len(keys) == WINDOW + 1


def memory_keys(registry: Registry) -> list[bytes]:
    with registry._database.read() as connection:
        return [row[0] for row in connection.exec_driver_sql("SELECT key FROM remembered_events")]


def test_a_header_names_the_rows_of_its_message_and_a_column_goes_before_it() -> None:
    named = [((EVENT_ID_HEADER, name),) for name in (b"k/0", b"k/1", b"k/0", b"k/0", b"")]
    values = [value(Sent(name, 0)) for name in (None, None, None, "x", None)]
    with registry_in_a_folder() as registry:
        intake = Intake(schema(), "event_time", None, ids=IDS, memory=EventMemory(registry.events))
        received = intake.admit(poll_of(values, topic="e", headers=named))
        assert received.table.column("_offset").to_pylist() == [0, 1, 3, 4]
        assert received.repeated.tolist() == [2]
        only_headers = Intake(
            schema(), "event_time", None, ids=EventIds(None, IDS.within_us), memory=EventMemory(registry.events)
        )
        again = only_headers.admit(poll_of(values, topic="e", first=5, headers=named))
        assert again.table.column("_offset").to_pylist() == [9]


def test_what_is_only_tried_decides_nothing() -> None:
    with registry_in_a_folder() as registry:
        intake = Intake(schema(), "event_time", None, ids=IDS, memory=EventMemory(registry.events))
        poll = poll_of([value(Sent("a", 0))] * 3, topic="e")
        assert intake.read(poll.since(1)).table.num_rows == 2
        assert not registry.events.progress("e")
        assert intake.admit(poll).table.num_rows == 1


def test_what_was_read_before_ids_were_looked_at_counts_for_all_readers() -> None:
    rows = [Sent("a", second) for second in range(6)]
    with registry_in_a_folder() as registry:
        log = log_of(rows)
        agent, archive = (Reader(log, registry, ids=None) for _ in range(2))
        agent.read(4)
        archive.read(1)
        memory = EventMemory(registry.events)
        memory.begin("e", {0: 4})
        memory.begin("e", {0: 1})
        for reader in (agent, archive):
            found = Reader(log, registry)
            found.at, found.events = reader.at, reader.events
            while found.at < len(rows):
                found.read(2)
            assert found.events == [0, 1, 2, 3, 4]


def test_what_was_decided_stays_when_ids_are_not_looked_at_any_more() -> None:
    rows = [Sent("a", second) for second in range(6)]
    with registry_in_a_folder() as registry:
        log = log_of(rows)
        agent, archive = Reader(log, registry), Reader(log, registry)
        agent.read(4)
        for reader in (agent, archive):
            later = Reader(log, registry, ids=None)
            later.at, later.events = reader.at, reader.events
            while later.at < len(rows):
                later.read(5)
            assert later.events == [0, 4, 5]


def test_a_refused_message_is_nobodys_first() -> None:
    """What is sent again after a repair has the id of the message that could not be computed."""
    with registry_in_a_folder() as registry:
        refusals = Refusals(registry.refused, registry.refuse)
        memory = EventMemory(registry.events, refusals)
        intake = Intake(schema(), "event_time", None, refusals=refusals, ids=IDS, memory=memory)
        first = poll_of([value(Sent("a", 0)), value(Sent("b", 0))], topic="e")
        assert intake.admit(first).table.num_rows == 2
        refusals.add("e", 0, {0: "it raised"})
        assert intake.admit(first).table.column("_offset").to_pylist() == [1]
        again = intake.admit(poll_of([value(Sent("a", 1)), value(Sent("b", 1))], topic="e", first=2))
        assert again.table.column("_offset").to_pylist() == [2]


def test_rows_of_one_message_are_known_one_by_one() -> None:
    times = pa.array([0, 0, 0], pa.timestamp("us"))
    message = wire.encode(pa.table({"name": ["a", "b", "a"], "event_time": times}))
    with registry_in_a_folder() as registry:
        intake = Intake(schema(), "event_time", None, ids=IDS, memory=EventMemory(registry.events))
        received = intake.admit(poll_of([message, message], topic="e"))
        assert received.table.select(["_offset", "_row"]).to_pylist() == [
            {"_offset": 0, "_row": 0},
            {"_offset": 0, "_row": 1},
        ]
        assert received.repeated.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("apart", [WINDOW, WINDOW + 1])
def test_the_window_is_closed_and_is_counted_from_the_first(apart: int) -> None:
    rows = [Sent("a", 0), Sent("a", 5), Sent("a", apart)]
    with registry_in_a_folder() as registry:
        reader = Reader(log_of(rows), registry)
        reader.read(9)
        assert reader.events == ([0] if apart == WINDOW else [0, 2])


def test_two_processes_that_decide_at_once_agree() -> None:
    rows = [Sent("a", 0), Sent("b", 1), Sent("a", 2), Sent("c", 3), Sent("b", 4)]
    with registry_in_a_folder() as registry:
        log = log_of(rows)
        first, second = Reader(log, registry), Reader(log, registry)
        first.read(1)
        second.read(1)
        first.read(3)
        second.read(4)  # believes that nobody has been beyond the first
        assert second.events == [0, 1, 3]
        first.read(4)
        assert first.events == second.events
