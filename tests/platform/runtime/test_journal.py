"""The lines of the runtime: assignments and rebalances that are news, and one dead letter of each kind."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from dovetail.platform.logs import Event
from dovetail.platform.rows.wire import DeadLetter, letters_to_outgoing
from dovetail.platform.runtime import journal
from dovetail.platform.runtime.journal import Journal
from dovetail.platform.stage import Outgoing, Poll


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    messages = [record.msg for record in caplog.records]
    return [(message.what, message.fields) for message in messages if isinstance(message, Event)]


@pytest.fixture(autouse=True)
def _all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dovetail")


def letters(*reasons: str, stage: str = "features") -> list[Outgoing]:
    count = len(reasons)
    poll = Poll("events", 2, np.arange(count), np.zeros(count, np.int64), [None] * count, [b""] * count, [()] * count)
    dead = [DeadLetter(offset, reason, 1, b"") for offset, reason in enumerate(reasons)]
    return letters_to_outgoing("dead", poll, dead, stage)


def test_an_assignment_is_told_once_and_again_after_a_rebalance(caplog: pytest.LogCaptureFixture) -> None:
    told = Journal()
    told.rebalancing(())
    ours = {("a", 0), ("a", 1), ("a", 3), ("b", 7)}
    told.assigned(ours, ())
    told.assigned(ours, ())
    told.rebalancing(ours)
    told.assigned({("b", 7)}, {("a", 0), ("a", 1), ("a", 3)})
    assert events(caplog) == [
        ("partitions assigned", {"partitions": {"a": "0-1,3", "b": "7"}, "gone": {}}),
        ("rebalance", {"partitions": {"a": "0-1,3", "b": "7"}}),
        ("partitions assigned", {"partitions": {"b": "7"}, "gone": {"a": "0-1,3"}}),
    ]


def test_the_first_dead_letter_of_a_kind_is_told_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    told = Journal()
    told.published([Outgoing("samples", b"")])
    told.published(
        letters("empty message", "column 'price' has 'abc' in row 7", "column 'price' has \"x y\" in row 12")
    )
    told.published(letters("empty message", stage="labels.click"))
    told.stopped()
    first = "first dead letter of its kind"
    kind = "column … has … in row …"
    where = {"stage": "features", "topic": "events", "partition": 2}
    assert events(caplog) == [
        (first, {**where, "offset": 0, "reason": "empty message"}),
        (first, {**where, "offset": 1, "reason": kind}),
        (first, {**where, "stage": "labels.click", "offset": 0, "reason": "empty message"}),
        ("dead letters", {"stage": "features", "topic": "events", "reason": kind, "letters": 2}),
    ]


def test_a_sender_that_makes_up_reasons_does_not_fill_memory_or_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_MAX_KINDS", 2)
    told = Journal()
    told.published(letters("a", "b", "c", "d", "a"))
    assert [fields["reason"] for _, fields in events(caplog)] == ["a", "b", "further kinds"]
