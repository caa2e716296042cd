"""Served against recomputed on a cluster: the verdict, examples and their SQL are those of one machine."""

from __future__ import annotations

import pytest

from dovetail.app.reports import consistency_of
from dovetail.features.batch.pieces import Limits
from dovetail.features.stream.engine import StreamEngine
from dovetail.platform.errors import StateError
from dovetail.spark import SparkDays
from dovetail.spark.frames import HAPPENED
from tests.features.stored.stored_world import World
from tests.features.stored.test_consistency import adds_one, of
from tests.spark.in_process import InProcess
from tests.spark.losing import Losing

LIMITS = Limits(rows_per_piece=16)


@pytest.fixture
def lived(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two feature sets have served, one after the other, the first with an engine that adds one; events came late."""
    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, "values", adds_one(StreamEngine.values))
        world.live(30)
    world.write("ranking_v2", "SELECT request_id, item_id, users.clicks FROM request LEFT JOIN users USING (user_id)")
    world.load(request={"feature_set": "ranking_v2"})
    world.live(60, first=30)
    return world


def test_the_verdict_is_the_one_of_one_machine(lived: World) -> None:
    expected = consistency_of(lived.project, lived.stores)
    assert of(expected, "ranking.clicks").mismatched > 0
    assert of(expected, "clicks").late > 0
    days: list[tuple[str, int, int]] = []
    for engine in (SparkDays(InProcess(0)), SparkDays(InProcess(0), span_rows=1)):
        found = consistency_of(
            lived.project, lived.stores, limits=LIMITS, engine=engine, on_day=lambda *done: days.append(done)
        )
        assert found.to_json() == expected.to_json()
    assert [done for _, done, _ in days] == [1, 2, 3] * 2
    one = consistency_of(lived.project, lived.stores, days=[days[0][0]], engine=SparkDays(InProcess(0)))
    assert 0 < one.compared < expected.compared


def test_values_by_event_time_that_do_not_come_back_are_missed(lived: World) -> None:
    with pytest.raises(StateError, match=r"values of users by event time, \d+ came back; nothing of the day is kept"):
        consistency_of(lived.project, lived.stores, engine=SparkDays(Losing("Evaluate", HAPPENED)))
