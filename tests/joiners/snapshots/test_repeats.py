"""A request whose id came before, within the window, is answered like the first and is a duplicate, over any crash."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import REPLY_HEADER, Answers
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog
from tests.generated import tries
from tests.joiners.snapshots.test_kept import (
    TOPICS,
    Changing,
    Crash,
    Topic,
    Torn,
    dying_at,
    kept,
    run_life,
    said_by,
    told,
)
from tests.joiners.test_snapshots import SCHEMA

WINDOW = 10
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


class Asked(NamedTuple):
    """A request ``second`` seconds after noon; one with a price below 0 has no value in the life of that number."""

    name: str
    second: int
    price: float = 1.0
    asks: bool = True

    def message(self) -> Outgoing:
        time = (NOON + timedelta(seconds=self.second)).isoformat()
        candidates = [{"item_id": 1, "price": self.price}, {"item_id": 2, "price": 2.0}]
        value = {"request_id": self.name, "user_id": "u", "request_time": time, "candidates": candidates}
        header = ((REPLY_HEADER, b"replies"),) if self.asks else ()
        return Outgoing("requests", json.dumps(value).encode(), headers=header)


def live(
    log: MemoryLog,
    registry: Registry,
    life: int = 9,
    dies: int | None = None,
    cut: int = 100,
    window: int | None = WINDOW,
) -> None:
    stage = SnapshotStage(
        RequestTopic("requests", Intake(SCHEMA, "request_time", None), flatten_requests),
        Ranking(Changing(life), Changing(life)),
        Answers("snapshots", "dead", ["replies"], rows_per_message=3),
        registry,
        snapshots=Topic(log),
        unique_within_us=None if window is None else window * 1_000_000,
    )
    run_life(stage, log, dying_at(dies), cut)


def firsts_of(requests: Sequence[Asked]) -> list[int]:
    """By brute force: for each request, which one it repeats, itself where it repeats none."""
    known: dict[str, tuple[int, int]] = {}
    newest, firsts = 0, []
    for number, asked in enumerate(requests):
        newest = max(newest, asked.second)
        first = known.get(asked.name)
        if first is None or newest - first[1] > WINDOW:
            known[asked.name] = first = (number, newest)
        firsts.append(first[0])
    return firsts


def check(log: MemoryLog, registry: Registry, requests: Sequence[Asked]) -> None:
    """Each first one has a snapshot or a dead letter, each repetition the answer of its first and no snapshot."""
    rows = kept(log)
    snapshots: dict[int, list[dict[str, object]]] = {}
    for row in [] if rows is None else rows.to_pylist():
        snapshots.setdefault(row["_source_offset"], []).append(row)
    firsts = firsts_of(requests)
    assert set(snapshots) <= set(firsts)
    letters = log.poll("dead", 0, 0)
    refused = {wire.letter_of(headers).offset for headers in ([] if letters is None else letters.headers)}
    replies, errors = told(log)
    expected: dict[str, set[bytes]] = {}
    duplicates = dead = 0
    for number, (asked, first) in enumerate(zip(requests, firsts, strict=True)):
        assert (first in snapshots) or number in refused
        if first in snapshots and asked.asks:
            expected.setdefault(asked.name, set()).add(said_by(snapshots[first]))
        duplicates += first in snapshots and first != number
        dead += first not in snapshots
    assert replies == expected
    # One that was refused before a death may be answered after it, and its repetitions with it: it had left nothing in
    # the topic of snapshots.
    asking = {number for number in refused if requests[number].asks}
    unanswered = {requests[number].name for number in asking if firsts[number] not in snapshots}
    assert unanswered <= errors <= {requests[number].name for number in asking}
    accounts = registry.accounts()
    assert not any(balance(accounts).values())
    counted = {a.outcome: a.rows for a in accounts if a.stage == "snapshots"}
    assert counted.get("duplicate", 0) == duplicates
    assert counted.get("dead_letter", 0) == dead
    assert counted.get("snapshotted", 0) == len(snapshots)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    store = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield store
    store.close()


def test_a_retry_gets_the_bytes_that_the_first_got_and_no_snapshot(registry: Registry) -> None:
    """In the same poll, in a later one, in a later life with another model; also where the first asked for nothing."""
    log = MemoryLog(TOPICS)
    requests = [Asked("a", 0), Asked("b", 0, asks=False), Asked("a", 1)]
    log.append([asked.message() for asked in requests])
    live(log, registry, life=0)
    requests += [Asked("a", 2), Asked("b", 3), Asked("b", 4, asks=False)]
    log.append([asked.message() for asked in requests[3:]])
    live(log, registry, life=5)
    check(log, registry, requests)
    told = log.poll("replies", 0, 0)
    assert told is not None
    assert [json.loads(value or b"")["model_version"] for value in told.values] == [0, 0, 0, 0]
    assert len(set(told.values)) == 2


def test_after_the_window_it_is_another_request(registry: Registry) -> None:
    """The window is counted from the first, not from its last repetition."""
    log = MemoryLog(TOPICS)
    requests = [Asked("a", second) for second in (0, 7, WINDOW, WINDOW + 1, WINDOW + 2)]
    assert firsts_of(requests) == [0, 0, 0, 3, 3]
    log.append([asked.message() for asked in requests])
    live(log, registry, cut=1)
    check(log, registry, requests)


def test_a_repetition_of_a_refused_request_is_refused_with_where_the_first_stood(registry: Registry) -> None:
    log = MemoryLog(TOPICS)
    log.append([Asked("a", 0, price=-10.0).message(), Asked("a", 1, price=1.0).message()])
    live(log, registry, life=9)
    letters = log.poll("dead", 0, 0)
    assert letters is not None
    reasons = [wire.letter_of(headers).reason for headers in letters.headers]
    assert reasons[1] == (
        "it repeats the request of partition 0, offset 0, which was refused; give it an id of its own"
    )
    check(log, registry, [Asked("a", 0, price=-10.0), Asked("a", 1)])


def test_without_a_window_each_is_a_request_of_its_own(registry: Registry) -> None:
    log = MemoryLog(TOPICS)
    log.append([Asked("a", 0).message(), Asked("a", 0).message()])
    live(log, registry, window=None)
    rows = kept(log)
    assert rows is not None
    assert rows.column("_source_offset").to_pylist() == [0, 0, 1, 1]


def test_what_was_answered_twice_before_a_window_was_declared_stays_so(registry: Registry) -> None:
    """Their snapshots are in the topic when the next life, which knows of the window, reads the requests again."""
    log = MemoryLog(TOPICS)
    log.append([Asked("a", 0).message(), Asked("a", 0).message()])
    with suppress(Crash):
        live(log, registry, dies=2, window=None)
    live(log, registry)
    rows = kept(log)
    assert rows is not None
    assert rows.column("_source_offset").to_pylist() == [0, 0, 1, 1]
    assert not any(balance(registry.accounts()).values())


def test_an_answer_that_is_gone_from_the_topic_is_not_made_anew(registry: Registry) -> None:
    log = MemoryLog(TOPICS)
    log.append([Asked("a", 0).message()])
    live(log, registry)
    later = MemoryLog(TOPICS)
    later.append([Asked("a", 0).message(), Asked("a", 1).message()])
    live(later, registry)
    letters = later.poll("dead", 0, 0)
    assert letters is not None
    assert "whose answer is not in the topic any more" in wire.letter_of(letters.headers[0]).reason


def test_ids_of_any_length_are_remembered_and_forgotten_after_the_window(registry: Registry) -> None:
    log = MemoryLog(TOPICS)
    names = ["x" * 100_000, "é\x00", "x" * 100_001]
    requests = [Asked(name, 0) for name in (*names, *names)]
    log.append([asked.message() for asked in requests])
    live(log, registry, cut=2)
    check(log, registry, requests)
    assert set(registry.remembered(0, names)) == set(names)
    log.append([Asked("later", WINDOW + 1).message()])
    live(log, registry)
    assert set(registry.remembered(0, [*names, "later"])) == {"later"}


REQUESTS = st.lists(
    st.builds(
        Asked,
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 30),
        st.sampled_from([1.0, 1.0, 3.0, -1.0, -2.0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=REQUESTS,
    in_order=st.booleans(),
    cuts=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    deaths=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=2),
)
def test_any_repetitions_cuts_and_deaths(
    requests: list[Asked], in_order: bool, cuts: list[int], deaths: list[tuple[bool, int]]
) -> None:
    if in_order:
        requests = sorted(requests, key=lambda asked: asked.second)
    with tempfile.TemporaryDirectory() as folder:
        log, registry = Torn(TOPICS), Registry(f"sqlite:///{folder}/r.sqlite")
        log.append([asked.message() for asked in requests])
        for life, (torn, at) in enumerate(deaths):
            log.left = at if torn else None
            with suppress(Crash):
                live(log, registry, life, None if torn else at, cuts[life])
        log.left = None
        live(log, registry, len(deaths), cut=cuts[-1])
        check(log, registry, requests)
        registry.close()
