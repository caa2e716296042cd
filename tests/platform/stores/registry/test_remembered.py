"""Requests remembered by their id: with the positions, per partition, forgotten after their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.remembered import RememberedRequest, RequestMemory
from dovetail.platform.stores.registry.store import Registry


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    store = Registry(url)
    yield store
    store.close()


def commit(registry: Registry, partition: int, at: int, before_us: int, **requests: RememberedRequest) -> None:
    memory = RequestMemory(requests, before_us)
    registry.commit("snapshots", partition, expected=at, progress=Progress(at + 1), accounts=[], memory=memory)


def test_requests_are_remembered_by_partition_until_they_are_forgotten(registry: Registry) -> None:
    a, b = RememberedRequest(10, 1, 2, answered=True), RememberedRequest(20, 3, 0, answered=False)
    commit(registry, 0, 0, 0, a=a, b=b)
    commit(registry, 1, 0, 0, a=b)
    assert registry.remembered(0, ["a", "b", "c"]) == {"a": a, "b": b}
    assert registry.remembered(1, ["a", "b"]) == {"a": b}
    commit(registry, 0, 1, 20)
    assert registry.remembered(0, ["a", "b"]) == {"b": b}
    assert registry.remembered(1, ["a"]) == {"a": b}


def test_a_later_request_of_the_same_id_takes_the_place(registry: Registry) -> None:
    commit(registry, 0, 0, 0, a=RememberedRequest(10, 1, 0, answered=False))
    again = RememberedRequest(90, 7, 3, answered=True)
    commit(registry, 0, 1, 0, a=again)
    assert registry.remembered(0, ["a"]) == {"a": again}


def test_many_at_once_and_ids_that_no_index_would_take(registry: Registry) -> None:
    requests = {f"{n}\x00{'x' * (n % 3) * 5_000}": RememberedRequest(n, n, 0, answered=True) for n in range(6_000)}
    commit(registry, 0, 0, 0, **requests)
    assert registry.remembered(0, list(requests)) == requests


def test_a_commit_from_another_position_remembers_nothing(registry: Registry) -> None:
    with pytest.raises(StaleCommit):
        commit(registry, 0, 4, 0, a=RememberedRequest(1, 1, 0, answered=True))
    assert registry.remembered(0, ["a"]) == {}


def test_each_scene_remembers_and_forgets_its_own(registry: Registry) -> None:
    mine, other = RememberedRequest(10, 1, 0, True), RememberedRequest(1_000, 7, 2, False)
    registry.commit("snapshots", 0, expected=0, progress=Progress(1), accounts=[], memory=RequestMemory({"a": mine}, 0))
    memory = RequestMemory({"a": other, "b": other}, 500, "feed")
    registry.commit("snapshots.feed", 0, expected=0, progress=Progress(1), accounts=[], memory=memory)
    assert registry.remembered(0, ["a", "b"]) == {"a": mine}
    assert registry.remembered(0, ["a", "b"], "feed") == {"a": other, "b": other}
    assert registry.remembered(0, ["a", "b"], "shop") == {}
    memory = RequestMemory({}, 2_000, "feed")
    registry.commit("snapshots.feed", 0, expected=1, progress=Progress(2), accounts=[], memory=memory)
    assert registry.remembered(0, ["a", "b"], "feed") == {}
    assert registry.remembered(0, ["a"]) == {"a": mine}
