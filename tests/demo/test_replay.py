"""The replay's slices: as long as they may be, and never so long that a request sees what came after it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.demo.logs.recorded import HOUR_US
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.replay import Replay, slice_ends
from dovetail.demo.shipped import project_folder
from dovetail.platform.config.load import load_config
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing


def ends_of(events: list[tuple[int, int]], requests: list[int], slice_us: int) -> list[int]:
    """``events`` as (arrival, event time); a request arrives at its own time."""
    arrival = np.array([a for a, _ in events], dtype=np.int64)
    times = np.array([t for _, t in events], dtype=np.int64)
    asked = np.array(requests, dtype=np.int64)
    return [int(end) for end in slice_ends(arrival, times, asked, asked, slice_us)]


def test_events_in_order_do_not_cut_a_slice() -> None:
    assert ends_of([(1, 1), (3, 3), (5, 5)], [2, 4, 6], slice_us=10) == [11]


def test_a_late_event_that_a_request_before_it_would_see_starts_a_new_slice() -> None:
    assert ends_of([(1, 1), (3, 3), (5, 2)], [4], slice_us=10) == [5, 15]


def test_a_late_event_after_requests_that_are_older_still_does_not() -> None:
    assert ends_of([(5, 4)], [3], slice_us=10) == [13]


def test_nothing_to_replay_has_no_slices() -> None:
    assert ends_of([], [], slice_us=10) == []


@given(
    events=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30),
    requests=st.lists(st.integers(0, 60), max_size=20),
    slice_us=st.integers(1, 40),
)
def test_sending_a_slices_events_first_shows_no_request_more_than_arrival_order_does(
    events: list[tuple[int, int]], requests: list[int], slice_us: int
) -> None:
    arrived = sorted((arrival, arrival - late) for arrival, late in events)
    asked = sorted(requests)
    ends = ends_of(arrived, asked, slice_us)
    assert all(arrival < ends[-1] for arrival, _ in arrived)
    starts = [min([a for a, _ in arrived[:1]] + asked[:1], default=0), *ends[:-1]] if ends else []
    for start, end in zip(starts, ends, strict=True):
        assert end - start <= slice_us
    for time in asked:
        slice_end = next(end for end in ends if time < end)
        sent_before = {row for row in enumerate(arrived) if row[1][0] < slice_end}
        arrived_before = {row for row in enumerate(arrived) if row[1][0] <= time}
        more = {(a, t) for _, (a, t) in sent_before - arrived_before}
        assert not [row for row in more if row[1] <= time]


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay(simulate(SimulatorConfig(requests=40, days=1)), load_config(project_folder()))


def test_every_row_is_sent_once_and_counted_from_the_first() -> None:
    log = simulate(SimulatorConfig(requests=40, days=1))
    sent: dict[str, int] = {}
    rows: dict[str, int] = {}
    for _, phases in Replay(log, load_config(project_folder())).phases():
        for batch in (batch for phase in phases for batch in phase):
            assert batch.first == sent.get(batch.topic, 0)
            sent[batch.topic] = batch.first + len(batch.messages)
            rows[batch.topic] = rows.get(batch.topic, 0) + sum(bool(m.value) for m in batch.messages)
    assert rows["behaviour"] == log.events.num_rows
    assert {kind: rows.get(kind, 0) for kind in log.labels} == {k: t.num_rows for k, t in log.labels.items()}


def test_each_slice_announces_its_end_to_every_label_partition_and_the_last_one_the_end_of_time(replay: Replay) -> None:
    announced = []
    for end, phases in replay.phases():
        for batch in phases[2]:
            marks = [m for m in batch.messages if not m.value]
            assert sorted(m.partition or 0 for m in marks) == [0, 1]
            announced += [(end, int(dict(m.headers)[WATERMARK_HEADER])) for m in marks]
    assert all(mark == end for end, mark in announced[:-6])
    assert {mark for _, mark in announced[-6:]} == {replay.end_of_time_us}


def in_topics(replay: Replay) -> dict[str, list[Outgoing]]:
    topics: dict[str, list[Outgoing]] = {}
    for _, phases in replay.phases():
        for batch in (batch for phase in phases for batch in phase):
            assert batch.first == len(topics.setdefault(batch.topic, []))
            topics[batch.topic] += batch.messages
    return topics


def test_labels_of_an_hour_sent_together_are_in_their_topics_what_they_are_slice_by_slice(replay: Replay) -> None:
    log, config = simulate(SimulatorConfig(requests=40, days=1)), load_config(project_folder())
    hourly = Replay(log, config, labels_every_us=HOUR_US)
    labelled = [end for end, phases in hourly.phases() if phases[2]]
    assert labelled == hourly.ends[hourly.labelled].tolist()
    assert len(labelled) < len(replay) == len(hourly)
    assert all(later - earlier >= HOUR_US for earlier, later in pairwise(labelled[:-1]))
    assert labelled[-1] == hourly.ends[-1]
    assert in_topics(hourly) == in_topics(replay)
