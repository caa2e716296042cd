"""Ids of events, and answers of calls, in the registry: by topic and partition, gone after their time."""

from __future__ import annotations

import pytest

from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.identity import NewEvents, RememberedEvent
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.answered_calls import AnsweredCall
from dovetail.platform.stores.registry.store import Registry
from tests.platform.stores.registry.test_remembered import registry

__all__ = ["registry"]


def decide(registry: Registry, topic: str, partition: int, at: int, new: NewEvents) -> None:
    registry.events.decide(topic, partition, expected=at, progress=Progress(at + 10, watermark_us=at), new=new)


def test_ids_are_kept_by_topic_and_partition_until_they_are_forgotten(registry: Registry) -> None:
    a, b = RememberedEvent(10, 1, 2), RememberedEvent(20, 3, 0)
    decide(registry, "t", 0, 0, NewEvents({b"a": a, b"\x00b": b}, [(3, 1), (2, 0)], None))
    decide(registry, "t", 1, 0, NewEvents({b"a": b}, [], None))
    assert registry.events.remembered("t", 0, [b"a", b"\x00b", b"c"]) == {b"a": a, b"\x00b": b}
    assert registry.events.remembered("t", 1, [b"a", b"\x00b"]) == {b"a": b}
    assert registry.events.remembered("u", 0, [b"a"]) == {}
    assert registry.events.repeated("t", 0, 2, 9) == [(2, 0), (3, 1)]
    assert registry.events.repeated("t", 0, 3, 9) == [(3, 1)]
    assert registry.events.repeated_before("t", 0, 3) == 1
    later = RememberedEvent(30, 15, 0)
    decide(registry, "t", 0, 10, NewEvents({b"\x00b": later}, [], 20))
    assert registry.events.remembered("t", 0, [b"a", b"\x00b"]) == {b"\x00b": later}
    assert {number: at.next_offset for number, at in registry.events.progress("t").items()} == {0: 20, 1: 10}


def test_what_another_has_decided_is_not_decided_again(registry: Registry) -> None:
    decide(registry, "t", 0, 0, NewEvents({}, [(1, 0)], None))
    with pytest.raises(StaleCommit):
        decide(registry, "t", 0, 0, NewEvents({b"a": RememberedEvent(1, 1, 1)}, [(1, 0)], None))
    assert registry.events.remembered("t", 0, [b"a"]) == {}


def test_an_answer_is_kept_under_its_key_for_its_time(registry: Registry) -> None:
    calls, first, second = registry.calls, AnsweredCall("d", "{}", 10), AnsweredCall("e", "[]", 20)
    calls.put("t", "k", first, 0)
    assert (calls.of("t", "k", 10), calls.of("t", "k", 11), calls.of("u", "k", 0)) == (first, None, None)
    calls.put("t", "other", second, 15)
    assert calls.of("t", "k", 0) is None
    calls.put("t", "other", first, 0)
    assert calls.of("t", "other", 0) == first
