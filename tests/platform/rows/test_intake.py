"""What comes in: dates from the future, announced watermarks, and rows that a vet turns away."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import NEWEST_MS, WATERMARK_HEADER, Intake, spoken_ms
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
    # Who follows nobody takes the timestamp for what it can be at most.
    alone = Intake(SCHEMA, "event_time", HOUR_US).read(poll)
    assert alone.table.column("_offset").to_pylist() == [5, 6, 7, 8]
    assert spoken_ms(poll) == NEWEST_MS


def test_an_announced_watermark_is_no_row_and_no_dead_letter() -> None:
    headers = [(), ((WATERMARK_HEADER, b"1704067200000000"),), ()]
    poll = poll_of([event("2024-01-01"), b"", event("2024-01-02")], first=3, headers=headers)
    received = Intake(SCHEMA, "event_time", None).read(poll)
    assert received.watermarks == [(4, 1_704_067_200_000_000)]
    assert received.table.column("_offset").to_pylist() == [3, 5]
    assert not received.dead


def test_a_watermark_that_is_no_number_or_comes_with_a_value_is_an_ordinary_message() -> None:
    headers = [((WATERMARK_HEADER, b"soon"),), ((WATERMARK_HEADER, b"5"),)]
    received = Intake(SCHEMA, "event_time", None).read(poll_of([b"", event("2024-01-01")], headers=headers))
    assert not received.watermarks
    assert [letter.reason for letter in received.dead] == ["empty message"]
    assert received.table.num_rows == 1


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
