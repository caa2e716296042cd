"""Views over streams that are enriched from streaming views: what is published, served and recomputed is the same."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dovetail.app.datasets import datasets
from dovetail.features import load
from dovetail.features.at_events.kept_views import KeptViews, kept_as
from dovetail.features.stored.fingerprints import mark_of
from dovetail.features.stored.registration import changes, register
from dovetail.platform.archive.writer import ArchiveStage, Dataset
from dovetail.platform.errors import StaleCommit
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import run_stage
from tests.features.at_events.two_level_worlds import (
    MADE,
    SQL,
    TOML,
    VISITOR,
    World,
    by_hand,
    minute,
    place_of,
    some_messages,
)  # fmt: skip
from tests.generated import tries

#: The features that no order of rows at one time decides.
ORDERLESS = ["activity", "visits", "most", "total"]


@given(seed=st.integers(0, 2**32), step=st.sampled_from((0.0, 0.4, 1.0, 7.0)), crashes=st.integers(0, 3))
@example(seed=1, step=0.4, crashes=3)
@example(seed=2, step=7.0, crashes=2)
@settings(max_examples=tries(4), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_have_what_is_true_at_them_in_every_engine(seed: int, step: float, crashes: int) -> None:
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        messages = some_messages(rng, 80, step)
        for start in range(0, 80, 40):
            world.send(messages[start : start + 40])
            world.rekey(rng, crashes)
        world.keep()
        visits, by_item, by_visitor = (world.archived(name) for name in ("visits", *MADE))
        assert visits.num_rows == by_item.num_rows == by_visitor.num_rows == sum(map(len, messages))
        true = by_hand(visits)
        for row in by_item.to_pylist():
            assert tuple(row[name] for name in VISITOR) == true[place_of(row)]
        flat = world.requests(round(80 * step) + 1)
        served = world.served(flat)
        assert world.project.evaluate(None, flat, {"by_item": by_item, "by_visitor": by_visitor}).equals(served)
        # The second level of the events of the first alone, which have their places in the topic.
        for engine in ("batch", "stream"):
            given_first = {"by_item": by_item}
            again = world.project.evaluate(None, flat, given_first, engine=engine)
            assert again.select(ORDERLESS).equals(served.select(ORDERLESS)), engine
        made = [world.project.evaluate(None, flat, {"visits": visits}, engine=engine) for engine in ("batch", "stream")]
        assert made[0].equals(made[1])
        world.close()


def test_polls_leave_no_trace(tmp_path: Path) -> None:
    """One poll, and polls of one message: the same rows, and the same states behind them."""
    messages = some_messages(np.random.default_rng(7), 120, 0.5)
    found = []
    for number, size in enumerate((1, 1_000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder)
        world.send(messages)
        stage = world.stage("by_item")
        asyncio.run(run_stage(stage, world.log, max_records=lambda size=size: size, drain=True))  # type: ignore[misc]
        archive = ArchiveStage(_dataset(world, "by_item"), world.registry, world.offline)
        asyncio.run(run_stage(archive, world.log, drain=True))
        rows = world.archived("by_item").drop_columns(["_partition", "_offset", "_row"])
        places = [(f"_source_{part}", "ascending") for part in ("partition", "offset", "row")]
        keys = sorted(world.online.keys(kept_as("by_item", "visitor"), 100))
        states = [world.online.read_partition(kept_as("by_item", "visitor"), p, keys) for p in (0, 1)]
        progress = world.online.progress(kept_as("by_item", "visitor"))
        found.append((rows.sort_by(places), keys, states, progress))
        world.close()
    assert found[0][0].equals(found[1][0])
    assert found[0][1:] == found[1][1:]
    assert {p: at.sources for p, at in found[0][3].items()} == {0: {-1: 0}, 1: {-1: 0}}


def test_messages_leave_no_trace(tmp_path: Path) -> None:
    """The same rows of a partition, one by one and many to a message, in polls of one and of all: the same values.

    The second level, whose messages are what a poll of the first gave, has them, too.
    """
    given = [row for message in some_messages(np.random.default_rng(9), 90, 0.5) for row in message]
    rows = [{**row, "user_id": (1, 3, 5)[number % 3]} for number, row in enumerate(given)]
    places = [(f"_source_{part}", "ascending") for part in ("partition", "offset", "row")]
    found = []
    for number, (together, size) in enumerate(((1, 1), (1, 1_000), (40, 1), (40, 1_000))):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder)
        world.send([rows[start : start + together] for start in range(0, len(rows), together)])
        for name in MADE:
            asyncio.run(run_stage(world.stage(name), world.log, max_records=lambda size=size: size, drain=True))  # type: ignore[misc]
        world.keep()
        made = [world.archived(name).sort_by(places) for name in MADE]
        found.append([each.select([n for n in each.column_names if not n.startswith("_")]) for each in made])
        world.close()
    assert found[0][0].column("clicks").null_count < len(rows) / 3
    assert found[0][1].column("activity").null_count < len(rows) / 2
    for each in found[1:]:
        assert each[0].equals(found[0][0])
        assert each[1].equals(found[0][1])


def _dataset(world: World, name: str) -> Dataset:
    return next(dataset for dataset in datasets(world.project) if dataset.name == name)


def test_rows_of_one_message_know_of_those_before_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    one = {"user_id": 1, "item_id": 1, "price": None, "action": "view"}
    world.send([[{**one, "event_time": minute(5)}, {**one, "event_time": minute(2)}, {**one, "event_time": minute(5)}]])
    world.rekey(np.random.default_rng(0))
    world.keep()
    assert world.archived("by_item").column("clicks").to_pylist() == [1, 1, 3]


def test_states_of_another_moment_make_no_rows(tmp_path: Path) -> None:
    """A worker that was paused while another took its partition over has nothing to publish."""
    world = World(tmp_path)
    world.send(some_messages(np.random.default_rng(3), 20, 1.0))
    world.rekey(np.random.default_rng(0))
    world.keep()
    rows = world.archived("visits").filter(pc.equal(world.archived("visits").column("_partition"), 1))
    end = world.registry.progress("rekey.by_item")[1].next_offset
    later = rows.set_column(rows.column_names.index("_offset"), "_offset", pc.add(rows.column("_offset"), end))
    stream = world.project.streams["by_item"]
    marks = {"visitor": mark_of(world.project.stream_views["visitor"])}
    paused, successor = (KeptViews(stream, world.online, marks) for _ in range(2))
    for kept in (paused, successor):
        kept.resume()
    _, commit = successor.take_in(later.slice(0, 1), 1, end, end + 1, {})
    commit()
    with pytest.raises(StaleCommit, match="another worker has taken the partition over"):
        paused.take_in(later, 1, end, 2 * end, {})


@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_a_store_that_lost_states_has_them_again(tmp_path: Path, lost: float) -> None:
    """All of them, or back to an older copy: what was published is taken in again, and nothing is published twice."""
    world, rng = World(tmp_path), np.random.default_rng(11)
    messages = some_messages(np.random.default_rng(3), 60, 1.0)
    path, kept = tmp_path / "online.sqlite", tmp_path / "kept.sqlite"
    first = int(30 * lost)
    world.send(messages[:first])
    world.rekey(rng)
    world.online.close()
    if first:
        shutil.copy(path, kept)
    world.online = SqlOnlineStore(f"sqlite:///{path}")
    world.send(messages[first:40])
    world.rekey(rng)
    world.online.close()
    for file in tmp_path.glob("online.sqlite*"):
        file.unlink()
    if first:
        shutil.copy(kept, path)
    world.online = SqlOnlineStore(f"sqlite:///{path}")
    world.send(messages[40:])
    world.rekey(rng, crashes=2)
    world.keep()
    by_item, true = world.archived("by_item"), by_hand(world.archived("visits"))
    assert by_item.num_rows == world.archived("by_visitor").num_rows == sum(map(len, messages))
    for row in by_item.to_pylist():
        assert tuple(row[name] for name in VISITOR) == true[place_of(row)]
    flat = world.requests(61)
    archived = {name: world.archived(name) for name in MADE}
    served = world.served(flat)
    assert world.project.evaluate(None, flat, archived).equals(served)
    made = world.project.evaluate(None, flat, {"by_item": by_item})
    assert made.select(ORDERLESS).equals(served.select(ORDERLESS))


@pytest.mark.parametrize(
    "other",
    [
        {"visitor.sql": ("count(*) OVER w AS clicks", "count(price) OVER w AS clicks")},
        {"dovetail.toml": ('allowed_lateness = "10m"', 'allowed_lateness = "20m"')},
    ],
)
def test_another_meaning_of_what_enriches_is_another_stream(tmp_path: Path, other: dict[str, tuple[str, str]]) -> None:
    world = World(tmp_path)
    register(world.project, world.registry, world.online)
    world.send(some_messages(np.random.default_rng(3), 5, 1.0))
    world.rekey(np.random.default_rng(0))
    for file, (before, after) in other.items():
        path = tmp_path / file if file.endswith("toml") else tmp_path / "sql" / file
        path.write_text(path.read_text().replace(before, after))
    found = {change.name: change for change in changes(load(tmp_path), world.registry, world.online)}
    assert found["rekeyed.by_item"].refused
    assert found["rekeyed.by_visitor"].refused == ("dovetail.toml" in other)


def test_a_column_that_became_wider_changes_nothing(tmp_path: Path) -> None:
    messages = some_messages(np.random.default_rng(5), 60, 1.0)
    narrow = {**SQL, "schemas.sql": SQL["schemas.sql"].replace("price DECIMAL(9,2)", "price DECIMAL(6,2)")}
    world = World(tmp_path, TOML, narrow)
    register(world.project, world.registry, world.online)
    world.send(messages[:30])
    world.rekey(np.random.default_rng(0))
    log, wider = world.log, World(tmp_path)
    register(wider.project, wider.registry, wider.online)
    wider.log = log
    wider.send(messages[30:])
    wider.rekey(np.random.default_rng(1))
    wider.keep()
    true = by_hand(wider.archived("visits"))
    for row in wider.archived("by_item").to_pylist():
        assert tuple(row[name] for name in VISITOR) == true[place_of(row)]
