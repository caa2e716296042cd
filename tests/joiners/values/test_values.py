"""Columns of labels in samples, and labels that take others back: the stream's join equals the batch join."""

from __future__ import annotations

import asyncio
import tempfile
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.stores.sql.labels import SqlLabelStore
from tests.generated import tries
from tests.joiners.values.value_worlds import (
    Feedback,
    ValueWorld,
    audit,
    bought,
    check,
    labels_config,
    live_through,
    shown,
    streamed,
    value_worlds,
    world_of,
)
from tests.joiners.worlds import at, micros
from tests.platform.stores.label_servers import Factory


@pytest.fixture
def store(tmp_path: Path) -> SqlLabelStore:
    return SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")


def test_columns_of_all_labels_in_time_come_to_one_value(store: SqlLabelStore) -> None:
    samples = check(
        world_of(
            *shown,
            bought(3, amount=Decimal("2.50"), pieces=1, note=None, seen=at(9), rate=0.5),
            bought(2, amount=Decimal("-1.25"), pieces=7, note="early", seen=None, rate=None),
            bought(9, amount=Decimal("0.75"), pieces=None, note="later", seen=at(4), rate=-0.0),
            bought(11, amount=Decimal("100.00"), pieces=9, note="too late", seen=at(1), rate=9.0),
            bought(14, request=1, item=1),
        ),
        store,
    )
    first, *others = samples.to_pylist()
    told = {name: first[name] for name in first if name.startswith("order_")}
    assert told == {
        "order_time": at(2),
        "order_amount": Decimal("2.00"),
        "order_pieces": 7,
        "order_note": "early",
        "order_seen": at(4),
        "order_rate": 0.0,
    }
    assert str(told["order_rate"]) == "0.0"  # the one that came last is -0.0
    assert samples.schema.field("order_amount").type == pa.decimal128(38, 2)
    assert [(one["label"], one["order_time"], one["order_amount"]) for one in others] == [
        (0, None, None), (0, None, None), (1, at(14), None),
    ]  # fmt: skip


def test_where_the_first_label_is_early_the_next_one_counts(store: SqlLabelStore) -> None:
    samples = check(
        world_of(
            *shown,
            bought(2, request=1, amount=Decimal(2)),  # three seconds before its request, and two are allowed
            bought(7, request=1, amount=Decimal(7), note="counts"),
            bought(8, request=1, amount=Decimal(8)),
            bought(2, request=1, item=1, amount=Decimal(2)),
            Feedback("undo", 1, 1, 1),
            Feedback("undo", 1, 1, 9),
            Feedback("undo", 1, 0, 1),  # is early, too
            early=2,
        ),
        store,
    )
    told = samples.select(["label", "order_time", "order_amount", "order_note", "undo_time"]).to_pylist()
    assert [tuple(one.values()) for one in told[2:]] == [
        (1, at(7), Decimal(15), "counts", None),
        (0, None, None, None, at(9)),
    ]
    assert {key: rows for key, rows in store.outcomes().items() if key[0] in ("order", "undo")} == {
        ("order", "early"): 2, ("undo", "early"): 2,
    }  # fmt: skip


def test_so_it_does_where_nothing_takes_back(store: SqlLabelStore) -> None:
    config = labels_config(retracted=False, max_early="2s", corrections="5s")
    orders = [bought(2, request=1, amount=Decimal(2)), bought(7, request=1, amount=Decimal(7))]
    samples = check(world_of(*shown, *orders, bought(2, 1, 1), bought(17, 1, 1), config=config), store)
    told = samples.filter(pc.equal(samples.column("request_id"), "r1")).select(["label", "order_time", "order_amount"])
    assert sorted(tuple(one.values()) for one in told.to_pylist() if one["label"]) == [
        (1, at(7), Decimal(7)),
        (1, at(17), None),  # as a correction
    ]


def test_a_label_takes_back_those_before_it(store: SqlLabelStore) -> None:
    undo, refund = partial(Feedback, "undo"), partial(Feedback, "refund")
    world = world_of(
        *shown,
        bought(1, amount=Decimal(1)),
        bought(2, amount=Decimal(2)),
        undo(0, 0, 2),  # both of item 0: it happened no earlier than either
        bought(4, amount=Decimal(4)),
        bought(3, item=1, amount=Decimal(3)),
        refund(0, 1, 9, columns=(("why", "broken"),)),
        bought(6, request=1, amount=Decimal(6)),
        undo(1, 1, 6),
        undo(1, 0, 16),  # after the window
        bought(7, request=1, item=1, amount=Decimal(7)),
    )
    samples = check(world, store)
    told = samples.select(["label", "order_time", "order_amount", "refund_why"]).to_pylist()
    assert [tuple(one.values()) for one in told] == [
        (1, at(4), Decimal(4), None),
        (0, None, None, "broken"),
        (1, at(6), Decimal(6), None),
        (1, at(7), Decimal(7), None),
    ]
    assert {key: rows for key, rows in store.outcomes().items() if key[0] in ("order", "undo", "refund")} == {
        ("order", "retracted"): 2, ("order", "sampled"): 2, ("refund", "sampled"): 1,
        ("undo", "sampled"): 2, ("undo", "late"): 1,
    }  # fmt: skip


def test_labels_kept_by_themselves_retire(store: SqlLabelStore) -> None:
    check(world_of(*shown, bought(1, amount=Decimal(1)), bought(2, amount=Decimal(2))), store)
    assert store.lookup_events(["r0", "r1", "none"]).num_rows == 2
    while store.retire(micros(100), limit=1):
        pass
    assert store.lookup_events(["r0"]).num_rows == 0


def test_books_cannot_know_a_label_that_came_after_its_sample_and_the_audit_calls_it_late(store: SqlLabelStore) -> None:
    world = world_of(*shown, bought(1), bought(14, request=1))
    log = world.log()
    asyncio.run(live_through(world, log, store, seed=0, crashes=0))
    assert store.outcomes()["order", "sampled"] == 2
    log.append([bought(20, item=1).message(world.base.step)])  # its partition has told that all others have come
    asyncio.run(live_through(world, log, store, seed=0, crashes=0))
    assert {what: rows for (kind, what), rows in store.outcomes().items() if kind == "order"} == {
        "sampled": 2, "pending": 1,
    }  # fmt: skip
    told = audit(world, log, store, streamed(log))
    assert {line.outcome: line.rows for line in told.lines if line.what == "order"} == {"sampled": 2, "late": 1}


LIVES = {"world": value_worlds(), "seed": st.integers(0, 2**31), "crashes": st.integers(0, 2)}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(suppress_health_check=QUIET)
@given(**LIVES)
def test_stream_and_batch_make_the_same_values(tmp_path: Path, world: ValueWorld, seed: int, crashes: int) -> None:
    store = SqlLabelStore(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/labels.sqlite")
    check(world, store, seed, crashes)
    store.close()


@settings(max_examples=tries(8), suppress_health_check=QUIET)
@given(**LIVES)
def test_so_they_do_on_every_store(new_store: Factory, world: ValueWorld, seed: int, crashes: int) -> None:
    check(world, new_store(), seed, crashes)
