"""What comes in: dates from the future, announced watermarks, and rows that a vet turns away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake, Vetted, spoken_ms
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.testing import ManualClock
from tests.platform.polls import poll_of

SCHEMA = parse_table(
    parse_statements(Path("event.sql"), "CREATE TABLE event (user_id VARCHAR, event_time TIMESTAMP NOT NULL)")[0],
    Path("event.sql"),
)
HOUR_US = 3_600_000_000
#: 2024-01-01 00:00 UTC, milliseconds.
SENT_MS = 1_704_067_200_000


def event(time: str, user: str = "a") -> bytes:
    return f'{{"user_id":"{user}","event_time":"{time}"}}'.encode()


def test_an_event_from_the_future_is_a_dead_letter_and_the_others_pass() -> None:
    values = [event("2023-12-31"), event("2099-01-01"), event("2024-01-01T01:00:00Z")]
    received = Intake(SCHEMA, "event_time", HOUR_US).read(poll_of(values, first=5, timestamps_ms=[SENT_MS] * 3))
    assert received.table.column("_offset").to_pylist() == [5, 7]
    (letter,) = received.dead
    assert (letter.offset, letter.rows) == (6, 1)
    assert letter.reason == "event_time is more than max_ahead (3600 s) after the message's timestamp"
    assert received.dead_rows == 1


def test_of_a_message_with_many_rows_only_the_bad_ones_are_turned_away() -> None:
    rows = wire.decode(poll_of([event("2024-01-01", "a"), event("2099-01-01", "b"), event("2098-01-01", "c")]), SCHEMA)
    poll = poll_of([wire.encode(rows.table)], timestamps_ms=[SENT_MS])
    received = Intake(SCHEMA, "event_time", HOUR_US).read(poll)
    assert received.table.column("user_id").to_pylist() == ["a"]
    (letter,) = received.dead
    assert letter.rows == 2
    assert letter.value is not None
    again = wire.decode(poll_of([letter.value]), SCHEMA)
    assert again.table.column("user_id").to_pylist() == ["b", "c"]


def test_without_the_check_the_future_passes() -> None:
    received = Intake(SCHEMA, "event_time", None).read(poll_of([event("2099-01-01")], timestamps_ms=[SENT_MS]))
    assert received.table.num_rows == 1


def test_a_message_from_the_future_by_the_clock_is_refused_for_good_and_says_nothing_of_time() -> None:
    kept: dict[int, str] = {}
    refusals = Refusals(lambda _topic, _partition: kept, lambda _topic, _partition, reasons: kept.update(reasons))
    clock = ManualClock(SENT_MS * 1_000)
    stamps = [SENT_MS, SENT_MS + 3_600_000, SENT_MS + 3_600_001, 1 << 62, -(1 << 62)]
    poll = poll_of([event("2024-01-01"), event("2024-01-01T02:00:00Z"), event("2024-01-01"), event("9999-12-31"), b"{"],
                   first=5, timestamps_ms=stamps)  # fmt: skip
    judge = Intake(SCHEMA, "event_time", HOUR_US, refusals=refusals, clock=clock)
    received = judge.read(poll)
    assert received.table.column("_offset").to_pylist() == [5, 6]
    reason = "its timestamp is more than max_ahead (3600 s) after the worker's clock"
    assert [(letter.offset, letter.rows) for letter in received.dead] == [(7, 1), (8, 1), (9, 1)]
    assert kept == {7: reason, 8: reason}
    assert spoken_ms(poll, received.refused) == SENT_MS + 3_600_000
    # Whoever reads it later, by another clock or by none, agrees.
    clock.advance(10**18)
    for intake in (judge, Intake(SCHEMA, "event_time", HOUR_US, refusals=refusals)):
        assert intake.read(poll).table == received.table
        assert list(intake.read(poll).refused) == [7, 8]
    # Without refusals and clock a timestamp is believed as long as it is one.
    alone = Intake(SCHEMA, "event_time", HOUR_US).read(poll)
    assert alone.table.column("_offset").to_pylist() == [5, 6, 7]
    assert spoken_ms(poll) == SENT_MS + 3_600_001


def test_an_announced_watermark_is_no_row_and_no_dead_letter() -> None:
    headers = [(), ((WATERMARK_HEADER, b"1704067200000000"),), ()]
    poll = poll_of([event("2024-01-01"), b"", event("2024-01-02")], first=3, headers=headers)
    received = Intake(SCHEMA, "event_time", None).read(poll)
    assert received.watermarks == [(4, 1_704_067_200_000_000)]
    assert received.table.column("_offset").to_pylist() == [3, 5]
    assert not received.dead


@pytest.mark.parametrize("said", [None, b"", b"soon", b"-1", b"9" * 30, b"9223372036854775807", b"253402300800000000"])
def test_a_watermark_that_is_no_time_is_a_dead_letter(said: bytes | None) -> None:
    headers: Any = [(("dovetail-idle", b"1"), (WATERMARK_HEADER, said))]
    received = Intake(SCHEMA, "event_time", None).read(poll_of([b""], headers=headers))
    assert not received.watermarks
    (letter,) = received.dead
    assert letter.reason.startswith("dovetail-watermark is b'")
    assert letter.reason.endswith("not microseconds up to year 9999")


def test_the_last_microsecond_that_there_is_can_be_announced() -> None:
    headers = [((WATERMARK_HEADER, b"253402300799999999"),)]
    received = Intake(SCHEMA, "event_time", None).read(poll_of([b""], headers=headers))
    assert received.watermarks == [(0, 253_402_300_799_999_999)]


def test_a_message_that_announces_and_has_a_value_is_an_ordinary_message() -> None:
    headers = [((WATERMARK_HEADER, b"5"),)]
    received = Intake(SCHEMA, "event_time", None).read(poll_of([event("2024-01-01")], headers=headers))
    assert not received.watermarks
    assert received.table.num_rows == 1


@pytest.mark.parametrize("stamp", [2**62, -(2**63), 253_402_300_800_000, -62_135_596_800_001])
def test_a_message_with_a_timestamp_that_is_no_time_is_a_dead_letter_and_sets_no_clock(stamp: int) -> None:
    poll = poll_of([event("2024-01-01")] * 3, timestamps_ms=[SENT_MS, stamp, SENT_MS + 1], first=7)
    received = Intake(SCHEMA, "event_time", HOUR_US).read(poll)
    assert received.table.column("_offset").to_pylist() == [7, 9]
    (letter,) = received.dead
    assert letter.reason == f"the message's timestamp, {stamp} ms, is outside of the years 0001 to 9999"
    assert spoken_ms(poll) == SENT_MS + 1
    assert spoken_ms(poll_of([b""], timestamps_ms=[stamp])) is None
    (out,) = wire.letters_to_outgoing("dead", poll, received.dead, "stage")
    assert wire.letter_of(out.headers).sent_ms == stamp


def test_whatever_the_vet_raises_it_stops_no_row_but_the_one_that_did_it() -> None:
    def brittle(table: pa.Table) -> dict[int, str]:
        if "b" in table.column("user_id").to_pylist():
            raise KeyError("b")
        return {row: "c" for row, user in enumerate(table.column("user_id").to_pylist()) if user == "c"}

    received = Intake(SCHEMA, "event_time", None, brittle).read(poll_of([event("2024-01-01", u) for u in "acbac"]))
    assert received.table.column("_offset").to_pylist() == [0, 3]
    assert [(letter.offset, letter.reason) for letter in received.dead] == [(1, "c"), (2, "KeyError: 'b'"), (4, "c")]


def test_what_a_vet_has_made_of_all_rows_is_there_for_their_readers_where_none_is_turned_away() -> None:
    def users(table: pa.Table) -> Vetted:
        found = table.column("user_id").to_pylist()
        return Vetted({row: "b" for row, user in enumerate(found) if user == "b"}, {"users": found})

    intake = Intake(SCHEMA, "event_time", None, users)
    assert intake.read(poll_of([event("2024-01-01", user) for user in "ac"])).shared == {"users": ["a", "c"]}
    some = intake.read(poll_of([event("2024-01-01", user) for user in "abc"]))
    assert some.table.column("user_id").to_pylist() == ["a", "c"]
    assert some.shared == {}


def test_rows_that_the_vet_turns_away_are_dead_letters_with_its_reason() -> None:
    def no_b(table: pa.Table) -> dict[int, str]:
        return {row: "b is not wanted" for row, user in enumerate(table.column("user_id").to_pylist()) if user == "b"}

    values = [event("2024-01-01", user) for user in "abab"]
    received = Intake(SCHEMA, "event_time", None, no_b).read(poll_of(values))
    assert received.table.column("user_id").to_pylist() == ["a", "a"]
    assert [(letter.offset, letter.reason) for letter in received.dead] == [
        (1, "b is not wanted"),
        (3, "b is not wanted"),
    ]


def test_intakes_that_turn_the_same_away_share_what_they_read() -> None:
    poll = poll_of([event("2024-01-01"), event("2099-01-01")], timestamps_ms=[SENT_MS] * 2)
    first = Intake(SCHEMA, "event_time", HOUR_US).read(poll)
    assert Intake(SCHEMA, "event_time", HOUR_US).read(poll) is first
    assert Intake(SCHEMA, "event_time", None).read(poll).table.num_rows == 2
    turns_away = Intake(SCHEMA, "event_time", HOUR_US, lambda _: {0: "no"}).read(poll)
    assert [letter.offset for letter in turns_away.dead] == [0, 1]


def test_what_is_refused_after_a_poll_was_read_is_turned_away_when_it_is_read_again() -> None:
    kept: dict[int, str] = {}
    refusals = Refusals(lambda _topic, _partition: kept, lambda _topic, _partition, reasons: kept.update(reasons))
    intake = Intake(SCHEMA, "event_time", HOUR_US, refusals=refusals)
    poll = poll_of([event("2024-01-01"), event("2024-01-01")], timestamps_ms=[SENT_MS] * 2)
    assert intake.read(poll).table.num_rows == 2
    refusals.add(poll.topic, poll.partition, {poll.last: "it ended a process"})
    assert intake.read(poll).table.column("_offset").to_pylist() == [poll.first]
    assert [letter.reason for letter in intake.read(poll).dead] == ["it ended a process"]
