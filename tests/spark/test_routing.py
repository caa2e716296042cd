"""Each probe's task gets all events that its windows reach, however hot its key is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.one_view import earliest_read
from dovetail.features.plan.definitions import StreamView
from dovetail.spark.routing import Route, Sampled, routed
from tests.features.batch.test_pieces import ORIGIN
from tests.generated import tries

TIMES = st.integers(-80, 80).map(lambda half: ORIGIN + half * 500_000)
#: Hot, of the same slot as the hot one, and any.
KEYS = st.sampled_from([5, 5, 5, 5, 5 + (1 << 21), 6, 7, 1 << 40])
ROWS = st.lists(st.tuples(KEYS, TIMES), max_size=80)


def sampled(rows: list[tuple[int, int]], weight: float = 1.0) -> Sampled:
    hashes = np.array([key for key, _ in rows], dtype=np.uint64)
    return Sampled(hashes, np.array([time for _, time in rows], dtype=np.int64), weight)


def reached(view: StreamView, route: Route, probes: Sampled, events: Sampled) -> bool:
    """Whether every probe finds in its task each event, once, of its key that its windows may hold."""
    asked = route.probes(probes.hashes, probes.times)
    assert ((asked >= route.first) & (asked < route.first + route.tasks)).all()
    rows, to = route.events(events.hashes, events.times)
    assert len({*zip(rows.tolist(), to.tolist(), strict=True)}) == len(rows), "an event comes to a task once"
    held = np.zeros((route.tasks, len(events.hashes)), dtype=np.bool_)
    held[to - route.first, rows] = True
    for key, time, task in zip(probes.hashes, probes.times.tolist(), asked.tolist(), strict=True):
        low = earliest_read(view, time)
        seen = (events.hashes == key) & (events.times <= time)
        if low is not None:
            seen &= events.times >= low
        if (seen & ~held[task - route.first]).any():
            return False
    return True


@settings(max_examples=tries(50))
@given(probes=ROWS, events=ROWS, target=st.integers(1, 60), first=st.integers(0, 3), known=st.floats(0, 1))
def test_no_probe_misses_an_event(
    project: Project,
    probes: list[tuple[int, int]],
    events: list[tuple[int, int]],
    target: int,
    first: int,
    known: float,
) -> None:
    view = project.stream_views["acts"]
    some = sampled(events[: int(known * len(events))], 1 / max(known, 0.1))
    route = routed(view, [sampled(probes)], [some], target, first)
    assert reached(view, route, sampled(probes), sampled(events))


def test_a_hot_key_goes_to_many_tasks_and_others_share_one(project: Project) -> None:
    view = project.stream_views["users"]
    hot = [(5, ORIGIN + n * 500_000) for n in range(2_000)]
    rest = [(n * 2, ORIGIN + n * 500_000) for n in range(2_000)]
    probes, events = sampled([*hot, *rest]), sampled([*hot, *rest])
    route = routed(view, [probes], [events], 500, 0)
    assert route.whole == 0
    hot_tasks = set(route.probes(probes.hashes[:2_000], probes.times[:2_000]).tolist())
    assert len(hot_tasks) == 8
    assert type(route.tasks) is int, "as PySpark wants it"
    assert not hot_tasks & set(route.probes(probes.hashes[2_000:], probes.times[2_000:]).tolist())
    _, to = route.events(events.hashes, events.times)
    sizes = np.bincount(to, minlength=route.tasks) + np.bincount(
        route.probes(probes.hashes, probes.times), minlength=route.tasks
    )
    assert sizes.max() <= 2 * 500
    assert sizes.sum() < 1.1 * 8_000, "hardly an event is sent twice"
    assert reached(view, route, probes, events)


def test_a_hot_key_whose_windows_reach_over_everything_stays_whole_and_is_told_of(project: Project) -> None:
    view = project.stream_views["users"]  # five seconds
    before = sampled([(5, ORIGIN + n) for n in range(4_000)])
    probes = sampled([(5, ORIGIN + 4_000 + n) for n in range(400)])
    route = routed(view, [probes], [before, sampled([(9, ORIGIN)])], 500, 0)
    assert route.whole == 4_400
    assert len(set(route.probes(probes.hashes, probes.times).tolist())) == 1


def test_a_hot_key_is_cut_into_fewer_stretches_where_many_would_repeat_too_much(project: Project) -> None:
    view = project.stream_views["users"]
    at_once = sampled([(5, ORIGIN + n) for n in range(2_000)])
    route = routed(view, [at_once], [at_once], 100, 0)
    assert route.whole == 0
    _, to = route.events(at_once.hashes, at_once.times)
    assert 2 <= len(set(to.tolist())) < 40
    assert len(to) + 2_000 < 2 * 4_000
    assert reached(view, route, at_once, at_once)


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_anything_is_one_task(project: Project, count: int) -> None:
    route = routed(project.stream_views["users"], [sampled([(1, ORIGIN)] * count)], [], 100, 4)
    assert (route.first, route.tasks) == (4, 1)
