"""A reader of samples: each once over archive and topic, in shards and shuffled, and exactly on from where it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, StateError
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.samples import Reader
from tests.samples.sample_worlds import PARTITIONS, PLAIN_UNTIL, Message, World, history_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "project")
    yield world
    world.close()


def histories(batches: Sequence[pa.Table]) -> None:
    """Each row has what the candidates of its request share."""
    for batch in batches:
        requests = batch.column("request_id").to_pylist()
        assert batch.column("history").to_pylist() == [history_of(request) for request in requests]


def keys(batches: Sequence[pa.Table]) -> list[tuple[str, int]]:
    return [
        key
        for batch in batches
        for key in zip(batch.column("request_id").to_pylist(), batch.column("item_id").to_pylist(), strict=True)
    ]


def read(world: World, **options: Any) -> list[pa.Table]:
    with Reader(world.project, **options) as reader:
        return list(reader)


MESSAGES = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(1, 4), st.booleans()), max_size=20)
OPTIONS = st.fixed_dictionaries(
    {"batch_rows": st.integers(1, 7), "shuffle_rows": st.sampled_from([0, 5, 30]), "seed": st.integers(0, 3)}
)


@given(MESSAGES, MESSAGES, st.integers(0, 12), st.integers(1, 9), OPTIONS, st.integers(1, 3), st.data())
def test_each_sample_is_read_once_whatever_is_archived_and_wherever_it_is_interrupted(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[Message],
    after: list[Message],
    archived: int,
    max_rows: int,
    options: dict[str, Any],
    shards: int,
    data: st.DataObject,
) -> None:
    world = World(tmp_path_factory.mktemp("reader") / "project")
    try:
        world.send(before)
        world.archive(archived, max_rows)
        wholes = [read(world, **options, shard=(shard, shards)) for shard in range(shards)]
        assert Counter(key for batches in wholes for key in keys(batches)) == Counter(world.expected)
        assert all(0 < batch.num_rows <= options["batch_rows"] for batches in wholes for batch in batches)
        for batches in wholes:
            histories(batches)
        of_request = [{request for request, _ in keys(batches)} for batches in wholes]
        assert sum(map(len, of_request)) == len(set().union(*of_request))
        whole = wholes[0]
        with Reader(world.project, **options, shard=(0, shards)) as reader:
            first = list(islice(reader, data.draw(st.integers(0, len(whole)), label="batches before")))
            state = json.loads(json.dumps(reader.state_dict()))
        known = len(world.expected)
        world.send(after)
        world.archive(data.draw(st.integers(0, 40), label="archived meanwhile"), max_rows)
        with Reader(world.project, **options, shard=(0, shards)) as reader:
            reader.load_state_dict(state)
            rest = keys(list(reader))
        seen = keys(first) + rest
        assert keys(first) == keys(whole[: len(first)])
        if not after:
            assert seen == keys(whole)
        mine = {request for request, _ in seen}
        assert Counter(seen) == Counter(key for key in world.expected if key[0] in mine)
        assert {request for request, _ in keys(whole)} <= mine
        if shards == 1:
            assert Counter(seen) == Counter(world.expected)
        assert len(seen) >= len(keys(whole))
        assert known <= len(world.expected)
    finally:
        world.close()


def test_rows_are_the_same_from_the_archive_and_from_the_topic(world: World) -> None:
    world.send([(0, 3, True), (1, 2, False), (0, 1, False)])
    fresh = pa.concat_tables(read(world))
    world.archive(10, 100)
    kept = pa.concat_tables(read(world, topic=False))
    assert kept.equals(fresh)
    assert read(world, topic=False, days=("2024-01-02", "2024-01-02")) == []
    assert read(world, columns=["label", "item_id"])[0].column_names == ["label", "item_id"]


def test_it_goes_on_in_the_same_order_after_any_batch_though_all_is_archived_meanwhile(world: World) -> None:
    world.send([(0, 3, False), (0, 1, False), (1, 2, True), (0, 1, True), (1, 4, False), (1, 1, False)] * 3)
    options: dict[str, Any] = {"batch_rows": 2}
    whole = read(world, **options)
    for batches in range(len(whole) + 1):
        with Reader(world.project, **options) as reader:
            first = list(islice(reader, batches))
            state = json.loads(json.dumps(reader.state_dict()))
        world.archive(1, 2)
        with Reader(world.project, **options) as reader:
            reader.load_state_dict(state)
            assert keys(first) + keys(list(reader)) == keys(whole)


def test_an_iteration_that_is_left_is_taken_up_by_the_next(world: World) -> None:
    world.send([(0, 3, False), (1, 3, False)])
    with Reader(world.project, batch_rows=2, shuffle_rows=4) as reader:
        whole = keys(read(world, batch_rows=2, shuffle_rows=4))
        assert keys(list(islice(reader, 1))) + keys(list(islice(reader, 1))) + keys(list(reader)) == whole


def test_days_are_those_of_the_request(world: World) -> None:
    world.send([(0, 1, False)] * 12)
    world.archive(5, 2)
    for days, offsets in ((("2024-01-01", "2024-01-01"), range(4)), (("2024-01-02", "2024-01-03"), range(4, 12))):
        assert keys(read(world, days=days)) == [(f"0-{offset}", 0) for offset in offsets]


def test_it_follows_what_comes(world: World) -> None:
    world.send([(0, 2, False)])
    coming = iter([[(1, 1, False)], [], [(0, 1, True)]])

    def wait(_seconds: float) -> None:
        world.send(next(coming))
        world.archive(1, 10)

    with Reader(world.project, follow=True, wait=wait) as reader:
        assert keys(list(islice(reader, 3))) == [("0-0", 0), ("0-0", 1), ("1-0", 0), ("0-1", 0)]


def test_shuffling_permutes_and_repeats(world: World) -> None:
    world.send([(0, 1, False)] * 200)
    plain = keys(read(world))
    once, again = keys(read(world, shuffle_rows=200, seed=1)), keys(read(world, shuffle_rows=200, seed=1))
    other = keys(read(world, shuffle_rows=200, seed=2))
    assert once == again != other
    assert once != plain
    assert sorted(once) == sorted(other) == sorted(plain)
    moved = np.abs(np.array([plain.index(key) for key in once]) - np.arange(200))
    assert moved.mean() > 40  # a third of the block, on average


def test_what_is_gone_is_said(world: World) -> None:
    world.send([(0, 1, False)] * 3)
    with Reader(world.project, batch_rows=1) as reader:
        next(iter(reader))
        state = reader.state_dict()
    world.log._writer.execute('UPDATE partition SET start = 3 WHERE topic = "samples" AND number = 0')
    world.log._writer.execute("DELETE FROM message")
    with Reader(world.project, batch_rows=1) as reader:
        reader.load_state_dict(state)
        with pytest.raises(StateError, match="are gone"):
            list(reader)


def test_a_state_is_for_the_reader_that_wrote_it(world: World) -> None:
    with Reader(world.project, seed=1) as reader:
        state = reader.state_dict()
    for options in ({"seed": 2}, {"seed": 1, "batch_rows": 7}, {"seed": 1, "shard": (0, 2)}):
        with Reader(world.project, **options) as other, pytest.raises(StateError, match="with the same arguments"):
            other.load_state_dict(state)
    with Reader(world.project, seed=1) as other:
        others: list[Any] = [{}, [], None, "state"]
        for none in others:
            with pytest.raises(StateError, match=r"what its state_dict\(\) gave, of format 1; this is of"):
                other.load_state_dict(none)
        (partition, *_), ends = sorted(state["cursors"]), dict.fromkeys(state["cursors"], -1)
        places: list[Any] = [[1], [1.5, 0, {}], [True, 0, {}], [-1, 0, {}], [0, 10**30, {}], [0, 0, {"x": 1}], None]
        damages: list[dict[str, Any]] = [
            *({"cursors": {**state["cursors"], partition: place}} for place in places),
            {"cursors": {}},
            {"cursors": []},
            {"cursors": {"7": state["cursors"][partition]}},
            *({name: value} for name in ("given", "number") for value in (None, "n", -1, 1.5, 10**30)),
            *({"ends": ends} for ends in (ends, {"x": 1}, {partition: 1.5}, {"7": 1}, None)),
            {"cursors": {**state["cursors"], partition: [9, 0, {}]}, "ends": {partition: 8}},
        ]
        for damage in damages:
            with pytest.raises(StateError, match="is damaged"):
                other.load_state_dict({**state, **damage})
        assert other.state_dict() == state


def test_a_state_from_behind_the_end_is_of_another_topic(world: World) -> None:
    world.send([(0, 1, False)] * 3)
    with Reader(world.project) as reader:
        list(reader)
        state = reader.state_dict()
    beyond = {number: [offset + 1, day, sources] for number, (offset, day, sources) in state["cursors"].items()}
    with Reader(world.project) as reader:
        reader.load_state_dict({**state, "cursors": beyond, "ends": {}})
        with pytest.raises(StateError, match="it is not the topic that the state is of"):
            list(reader)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shard": (2, 2)}, "0 <= number < shards"),
        ({"batch_rows": 0}, "batch_rows must be at least 1"),
        ({"columns": "label"}, "give a list of names"),
        ({"columns": ["label", "label"]}, "give each name once"),
        ({"days": (date(2024, 1, 1), date(2024, 1, 2))}, "like 2024-03-01"),
        ({"days": ("x", "y")}, "give the first and the last day"),
        ({"days": ("2024-03-07", "2024-03-01")}, "the first day is after the last"),
        ({"target": "else"}, "target 'else' is not declared"),
    ],
)
def test_what_cannot_be_read_is_refused(world: World, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Reader(world.project, **options)


def test_a_column_that_is_not_there_is_named(world: World) -> None:
    world.send([(0, 1, False)])
    with pytest.raises(ConfigError, match="there is no column 'labels' in samples; there are request_id"):
        read(world, columns=["labels"])


@pytest.mark.parametrize("shuffle_rows", [0, 30])
def test_what_candidates_share_is_given_once_for_each_request(world: World, shuffle_rows: int) -> None:
    world.send([(number % PARTITIONS, 1 + number % 5, number % 4 == 0) for number in range(24)])
    world.archive(8, 3)
    options: dict[str, Any] = {"batch_rows": 7, "shuffle_rows": shuffle_rows, "seed": 3}
    flat, once = read(world, **options), read(world, **options, per_request=True)
    assert [decoded(batch).to_pylist() for batch in once] == [batch.to_pylist() for batch in flat]
    histories(flat)
    shared = 0
    for batch in once:
        column = batch.column("history").chunk(0)
        if not pa.types.is_dictionary(column.type):
            continue
        assert column.type.index_type == pa.int32()
        # A list for each request; of those that were made with one in every row, for each row.
        offsets = [int(request.split("-")[1]) for request in batch.column("request_id").to_pylist()]
        requests = {
            request for request in batch.column("request_id").to_pylist() if int(request.split("-")[1]) >= PLAIN_UNTIL
        }
        assert len(column.dictionary) == len(requests) + sum(offset < PLAIN_UNTIL for offset in offsets)
        shared += 1
    assert shared
    chosen = read(world, columns=["history"], per_request=True)
    assert [batch.column_names for batch in chosen] == [["history"]] * len(chosen)


def test_a_state_goes_on_in_either_form(world: World) -> None:
    world.send([(0, 3, False)] * 12)
    whole = read(world, batch_rows=5)
    with Reader(world.project, batch_rows=5, per_request=True) as reader:
        first = list(islice(reader, 3))
        state = reader.state_dict()
    with Reader(world.project, batch_rows=5) as reader:
        reader.load_state_dict(state)
        rest = list(reader)
    assert keys([*first, *rest]) == keys(whole)
