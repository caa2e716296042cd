"""States and values at the edges: refused blobs, too-old requests, expiry, overflow, the words of every type."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.kernels.ordered import from_words, to_words
from dovetail.features.kernels.packed import MOST, SPARE, count_words, pack_words, unpack_words
from dovetail.features.plan.definitions import Input, Window
from dovetail.features.stream import blobs
from dovetail.features.stream.blobs import decode, decode_runs, encode
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.prepare import NO_WATERMARK, prepare_rows, running_watermark
from dovetail.features.stream.values import distinct_probes
from dovetail.platform.errors import StateError
from tests.features.stream.harness import Row, Store
from tests.features.stream.strategies import SCHEMA, view_of

_HOUR = 3_600_000_000
_DAY = Window("day", 24 * _HOUR, _HOUR)
_COUNT = Input(None, None, pa.int64())
_BIG = Input("big", None, pa.int64())
_VIEW = view_of([_DAY], [("count", _COUNT, 0), ("sum", _BIG, 0), ("avg", _BIG, 0)], lateness_us=_HOUR)


def _row(hours: float, big: int | None = 1, **other: Any) -> Row:
    row: Row = dict.fromkeys(SCHEMA.names)
    return row | {"user_id": 1, "event_time": int(hours * _HOUR), "big": big} | other


def _one(store: Store, hours: float) -> list[Any]:
    values = store.values([((1,), int(hours * _HOUR))])
    return list(values.table.to_pylist()[0].values())


def _state() -> bytes:
    store = Store(_VIEW)
    store.apply(0, [_row(0), _row(5)])
    (blob,) = store.states.values()
    return blob


def _values(blob: bytes, hours: int = 5, watermark: int = NO_WATERMARK) -> Any:
    zero = np.zeros(1, dtype=np.int32)
    return StreamEngine(_VIEW).values([blob], zero, zero, np.array([hours * _HOUR]), watermark)


def _one_word_more(blob: bytes) -> tuple[Any, Any]:
    words, starts = decode(StreamEngine(_VIEW).layout, [blob])
    return np.append(words, 0), starts + np.array([0, 1])


def _unpacked(blob: bytes) -> bytes:
    """A state as version 1 kept it: its words."""
    return decode(StreamEngine(_VIEW).layout, [blob])[0].tobytes()


def test_states_of_version_1_are_read_and_are_packed_when_they_change() -> None:
    layout = StreamEngine(_VIEW).layout
    state = _state()
    before = _unpacked(state)
    assert len(state) < len(before) / 2
    for mine, theirs in zip(decode(layout, [before, b"", state]), decode(layout, [state, None, before]), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert encode(*decode(layout, [before])) == [state]
    assert _values(before).table.equals(_values(state).table)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 200) | st.sampled_from([2**63 - 1, 0]), max_size=40))
def test_words_survive_being_packed(words: list[int]) -> None:
    room = np.full(MOST * (len(words) + 2), 255, dtype=np.uint8)
    end = pack_words(np.array([7, *words, 7], dtype=np.int64), 1, 1 + len(words), room, 0)
    assert end <= MOST * (len(words) + 1)
    room[end:] = 255
    assert count_words(room, 0, end) == len(words)
    back = np.full(len(words) + 1, 7, dtype=np.int64)
    unpack_words(np.append(room, np.zeros(SPARE, dtype=np.uint8)), 0, len(words), back, 0)
    assert back.tolist() == [*words, 7]


def test_bytes_that_are_no_packed_words_are_told() -> None:
    def counted(*octets: int) -> int:
        return count_words(np.array(octets, dtype=np.uint8), 0, len(octets))

    assert counted(0, 0, 0, 0) == 0
    assert counted(1, 0, 0, 0, 2, 5, 6) == 1
    assert counted(2, 0, 0, 0, 0x12, 5, 6, 7) == 2
    assert counted(0, 0, 0) == -1  # shorter than its count
    assert counted(3, 0, 0, 0, 0) == -1  # than its widths
    assert counted(1, 0, 0, 0, 2, 5) == counted(1, 0, 0, 0, 1, 5, 6) == -1  # than its words, and longer
    assert counted(1, 0, 0, 0, 9, *range(9)) == -1
    assert counted(1, 0, 0, 0, 0x11, 5, 6) == -1


def test_decode_and_encode_are_inverse() -> None:
    states = [_state(), b"", _state()]
    layout = StreamEngine(_VIEW).layout
    assert encode(*decode(layout, states)) == states
    assert encode(*decode(layout, [None, b""])) == [b"", b""]


def test_states_are_read_in_runs_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = StreamEngine(_VIEW).layout
    states = [_state(), None, _state(), _state(), b""]
    whole, starts = decode(layout, states)
    for size in (1, len(states[0] or b""), 2 * len(states[0] or b""), 1 << 20):
        monkeypatch.setattr(blobs, "_RUN_BYTES", size)
        runs = list(decode_runs(layout, states))
        assert np.array_equal(np.concatenate([words for _, words, _ in runs]), whole)
        assert [first for first, _, _ in runs] == np.cumsum([0, *(len(run[2]) - 1 for run in runs)])[:-1].tolist()
        begins = [run[2][:-1] + starts[run[0]] for run in runs]
        assert np.concatenate(begins).tolist() == starts[:-1].tolist()


def test_values_do_not_depend_on_how_states_are_cut_into_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Store(_VIEW), Store(_VIEW)
    one.apply(0, [_row(hour, hour) for hour in range(9)])
    other.apply(1, [_row(hour + 0.5, -3 * hour) for hour in range(9)])
    states = [*one.states.values(), *other.states.values(), b"", *one.states.values()]
    owners, codes = np.array([2, 0, 1, 0], dtype=np.int32), np.array([0, 1, 2, 0, -1, 0], dtype=np.int32)
    times = np.array([9, 9, 9, 20, 9, 0]) * _HOUR
    found = []
    for size in (1 << 20, 1):
        monkeypatch.setattr(blobs, "_RUN_BYTES", size)
        found.append(StreamEngine(_VIEW).values(states, owners, codes, times, NO_WATERMARK))
    assert found[0].table.equals(found[1].table)
    assert found[0].answerable.tolist() == found[1].answerable.tolist() == [True] * 5 + [False]
    # Key 0 has both states, key 1 none, key 2 the first alone.
    assert found[1].table.column(0).to_pylist() == [18, 0, 9, 18, 0, None]


def test_probes_of_one_key_and_time_have_the_values_of_one_probe() -> None:
    one, other = Store(_VIEW), Store(_VIEW)
    one.apply(0, [_row(hour, hour) for hour in range(9)])
    other.apply(1, [_row(hour + 0.5, -3 * hour) for hour in range(9)])
    states, owners = [*one.states.values(), *other.states.values()], np.zeros(2, dtype=np.int32)
    times = np.array([9, 9, 9, 0, 0, 4, 9, 4, 4]) * _HOUR
    codes = np.zeros(len(times), dtype=np.int32)
    together = StreamEngine(_VIEW).values(states, owners, codes, times, NO_WATERMARK)
    alone = [StreamEngine(_VIEW).values(states, owners, codes[:1], times[i : i + 1], NO_WATERMARK) for i in range(9)]
    assert together.table.to_pylist() == [values.table.to_pylist()[0] for values in alone]
    assert together.answerable.tolist() == [bool(values.answerable[0]) for values in alone]


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), max_size=30))
def test_distinct_probes_stand_for_all(probes: list[tuple[int, int]]) -> None:
    codes, times = np.array(probes, dtype=np.int64).reshape(-1, 2).T
    chosen, places = distinct_probes(codes, times)
    found = [probes[i] for i in chosen]
    assert found == list(dict.fromkeys(probes))
    assert [found[place] for place in places] == probes


def test_a_damaged_state_in_a_later_run_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_RUN_BYTES", 1)
    layout = StreamEngine(_VIEW).layout
    with pytest.raises(StateError, match="state 2 of the batch is damaged"):
        list(decode_runs(layout, [_state(), None, _state()[:-8]]))


def test_states_of_another_version_are_refused() -> None:
    blob = _state()
    newer = blob[:6] + (2).to_bytes(2, "little") + blob[8:]
    with pytest.raises(StateError, match=r"state 0 .* not a feature state of version 1 or 3 .*DVTLST.x02.*bootstrap"):
        _values(newer)


def test_states_of_another_definition_are_refused() -> None:
    other = StreamEngine(view_of([_DAY], [("count", _COUNT, 0)]))
    with pytest.raises(StateError, match=r"view activity: state 1 .* kept for another definition .* another name"):
        other.apply([None, _state()], _no_rows(other))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda blob: _unpacked(blob)[:-1], "not a multiple of 8"),
        (lambda blob: blob[:5], "not a multiple of 8"),
        (lambda blob: _unpacked(blob)[:24], "shorter than its header"),
        (lambda blob: blob[:17], "the widths of its words disagree"),
        (lambda blob: blob[:15], "shorter than its header"),
        (lambda blob: _unpacked(blob)[:-8], "its length and its counts disagree"),
        (lambda blob: blob + b"\0", "the widths of its words disagree"),
        (lambda blob: blob[:16] + bytes(4), "shorter than its header"),
        (lambda blob: encode(*_one_word_more(blob))[0], "its length and its counts disagree"),
        (lambda blob: blob + b"\x80", "the widths of its words disagree"),
        (lambda blob: blob[:16] + b"\xff" * 11 + blob[27:], "the widths of its words disagree"),
        (
            lambda blob: _unpacked(blob)[:24] + (-1).to_bytes(8, "little", signed=True) + _unpacked(blob)[32:],
            "its counts disagree",
        ),
    ],
)
def test_damaged_states_are_refused(damage: Any, why: str) -> None:
    with pytest.raises(StateError, match=f"is damaged: .*{why}; rebuild the state"):
        _values(damage(_state()))


def _no_rows(engine: StreamEngine) -> Any:
    nothing = np.empty(0, dtype=np.int64)
    arguments = [pa.nulls(0, pa.int64())] * len(engine.layout.arguments)
    return prepare_rows(engine.layout, nothing.astype(np.int32), nothing, nothing, arguments, [])


def test_nothing_applied_changes_nothing() -> None:
    engine = StreamEngine(_VIEW)
    blob = _state()
    assert engine.apply([blob, None], _no_rows(engine)) == ([blob, b""], 0, 0, 0)
    assert engine.apply([], _no_rows(engine)) == ([], 0, 0, 0)
    nothing = np.empty(0, dtype=np.int32)
    assert engine.values([], nothing, nothing, np.empty(0, dtype=np.int64), NO_WATERMARK).table.num_rows == 0


def test_a_key_without_events_counts_zero_and_has_no_sum() -> None:
    engine = StreamEngine(_VIEW)
    codes = np.array([-1, 0], dtype=np.int32)
    values = engine.values([], np.empty(0, dtype=np.int32), codes, np.zeros(2, dtype=np.int64), NO_WATERMARK)
    assert values.table.to_pylist() == [{"f0": 0, "f1": None, "f2": None}] * 2
    assert values.table.schema == _VIEW.output_schema


def test_a_request_behind_the_lateness_is_not_answered() -> None:
    store = Store(_VIEW)
    store.apply(0, [_row(0), _row(5)])
    store.apply(1, [_row(9, user_id=2)])
    values = store.values([((1,), 8 * _HOUR), ((1,), 8 * _HOUR - 1), ((3,), 0)])
    assert values.answerable.tolist() == [True, False, False]
    assert values.table.to_pylist()[1] == {"f0": None, "f1": None, "f2": None}
    assert values.table.to_pylist()[0] == {"f0": 2, "f1": Decimal(2), "f2": 1.0}


def test_a_state_newer_than_the_watermark_handed_in_is_not_asked_for_what_it_lost() -> None:
    assert _values(_state(), hours=4).answerable.tolist() == [True]
    assert _values(_state(), hours=3).answerable.tolist() == [False]


def test_expired_rows_are_dropped_and_counted() -> None:
    store = Store(_VIEW)
    store.apply(0, [_row(100), _row(100, big=None, user_id=None)])
    horizon = 100 - 1 - 24
    assert store.apply(0, [_row(horizon), _row(horizon - 1 / 3600)])[1:] == (1, 1, 0)
    assert store.outcomes == [2, 1, 1]
    assert _one(store, 99) == [1, Decimal(1), 1.0]


def test_what_expired_leaves_the_state_when_its_key_is_touched() -> None:
    store = Store(_VIEW)
    store.apply(0, [_row(0), _row(0.5), _row(3)])
    before = len(_unpacked(next(iter(store.states.values()))))
    store.apply(0, [_row(1000)])
    (blob,) = store.states.values()
    assert len(_unpacked(blob)) < before
    assert _one(store, 1000) == [1, Decimal(1), 1.0]
    store.apply(0, [_row(5000, user_id=2)])
    applied = store.apply(0, [_row(4)])
    assert applied == ([b""], 0, 1, 0)
    assert _one(store, 5000) == [0, None, None]


def test_rows_that_no_input_counts_are_unused() -> None:
    store = Store(view_of([_DAY], [("sum", _BIG, 0)]))
    assert store.apply(0, [_row(0, big=None), _row(0)])[1:] == (1, 0, 1)


def test_a_sum_beyond_38_digits_is_refused() -> None:
    words, starts = decode(StreamEngine(_VIEW).layout, [_state()])
    broken = words.copy()
    broken[-1] = 2**63 - 1  # the high word of the sum, last in the only list of partials
    with pytest.raises(StateError, match="does not fit DECIMAL"):
        _values(encode(broken, starts)[0])


def test_times_beyond_the_limit_are_refused() -> None:
    store = Store(_VIEW)
    with pytest.raises(
        StateError, match=r"event time of row 1 is 2305843009213693953 us, beyond 2\*\*61; send the event"
    ):
        store.apply(0, [_row(0), _row(0) | {"event_time": 2**61 + 1}])
    with pytest.raises(StateError, match="request time of row 0 is -2305843009213693953 us"):
        store.values([((1,), -(2**61) - 1)])
    store.apply(0, [_row(0) | {"event_time": -(2**61)}, _row(0) | {"event_time": 2**61}])
    assert store.values([((1,), 2**61)]).table["f0"].to_pylist() == [1]


def test_the_running_watermark_is_the_highest_time_before_each_row() -> None:
    before, after = running_watermark(np.array([3, 9, 4], dtype=np.int64), NO_WATERMARK)
    assert before.tolist() == [NO_WATERMARK, 3, 9]
    assert after == 9
    assert running_watermark(np.array([3], dtype=np.int64), 20)[1] == 20


def test_a_null_filter_is_false_and_a_null_argument_does_not_count() -> None:
    view = view_of([_DAY], [("count", Input("big", "flag", pa.int64()), 0), ("max", _BIG, 0)])
    zeros = np.zeros(3, dtype=np.int64)
    rows = prepare_rows(
        StreamEngine(view).layout,
        zeros.astype(np.int32),
        zeros,
        zeros,
        [pa.chunked_array([[5, None], [7]])],
        [pa.chunked_array([[True, True], [None]])],
    )
    assert rows.valid.tolist() == [0b11, 0b00, 0b10]
    assert rows.values.tolist() == [[5], [0], [7]]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("ascending", "type_"),
    [
        ([-(2**63), -1, 0, 2**63 - 1], pa.int64()),
        ([-128, 127], pa.int8()),
        ([False, True], pa.bool_()),
        ([dt.date(1969, 12, 31), dt.date(2024, 2, 29)], pa.date32()),
        ([dt.datetime(1, 1, 1), dt.datetime(2024, 2, 29)], pa.timestamp("us")),  # noqa: DTZ001
        ([Decimal("-9999999999999999.99"), Decimal("0.01")], pa.decimal128(18, 2)),
        ([-math.inf, -1.5, -5e-324, 0.0, 5e-324, math.inf, math.nan], pa.float64()),
        ([-math.inf, -1.5, 0.0, 1.5, math.inf, math.nan], pa.float32()),
    ],
)
def test_words_keep_the_order_of_every_type_and_lead_back(ascending: list[Any], type_: pa.DataType) -> None:
    array = pa.chunked_array([pa.array([*ascending, None], type_)])
    words = to_words(array)
    assert (np.diff(words[:-1]) > 0).all()
    present = np.array([True] * len(ascending) + [False])
    back = from_words(words, present, type_)
    assert back.type == type_
    assert str(back.to_pylist()) == str(array.to_pylist())
