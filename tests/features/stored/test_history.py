"""A stream's past from files: state, served values and verdicts are those of a stream that had it all, none twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.jobs import archived_events
from dovetail.app.reports import consistency_of
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.history import HistorySource, archive_history, history_of, refuse_grown
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError, DovetailError, StateError, WireError
from dovetail.platform.stores.registry.store import Registry
from tests.features.stored.stored_world import HOUR, START, World, events
from tests.platform.lake.lakes import LAKES

PAST = 60
"""Events of before the stream."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "shop")


def write(world: World, rows: Sequence[dict[str, Any]], name: str = "part-0", **columns: pa.DataType) -> Path:
    """A file of the past, its columns in another order than declared, and one that is not declared."""
    declared = world.project.streams["events"].schema.arrow
    types = {field.name: field.type for field in reversed(list(declared))} | {"note": pa.string()} | columns
    folder = world.folder / "past"
    folder.mkdir(exist_ok=True)
    schema = pa.schema([pa.field(name, type_) for name, type_ in types.items()])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / f"{name}.parquet", row_group_size=7)
    return folder


def take(world: World, path: Path, before_us: int | None = None) -> int:
    project, stores = world.project, world.stores
    stream = project.streams["events"]
    source = HistorySource(str(path), DayFiles.at(path, stream.event_time), before_us)
    return archive_history(project, stream, stores.registry, stores.offline, source)


def fill(world: World, **options: Any) -> int:
    stores = world.stores
    view = world.project.stream_views["users"]
    return bootstrap(view, stores.registry, stores.offline, stores.online, **options).rows


def ask(world: World, name: str, at: int) -> None:
    rows = [
        {"request_id": f"{name}-{user}", "user_id": f"u{user}", "request_time": at, "candidates": [{"item_id": 1}]}
        for user in range(5)
    ]
    world.ask(rows)
    world.answer()


def served(world: World) -> list[tuple[Any, ...]]:
    world.archive("snapshots")
    rows = read_dataset(world.stores.registry, world.stores.offline, "snapshots")
    return sorted(zip(*(rows.column(name).to_pylist() for name in ("request_id", "clicks", "price")), strict=True))


def test_what_is_served_is_as_if_the_stream_had_had_it(world: World, tmp_path: Path) -> None:
    write(world, events(PAST)[::2], "b")
    assert take(world, write(world, events(PAST)[1::2], "a")) == PAST
    later = events(30, first=PAST + 5)
    world.send(later[:20])
    world.archive("events")
    assert fill(world) == PAST + 20
    world.send(later[20:])
    world.stream("users")
    now = max(row["event_time"] for row in later)
    ask(world, "r", now)
    other = World(tmp_path / "other")
    other.send([*events(PAST), *later])
    other.stream("users")
    ask(other, "r", now)
    assert served(world) == served(other)
    assert any(row[1] for row in served(world))


def test_each_snapshot_is_recomputed_with_the_past_that_it_had_seen(world: World) -> None:
    path = write(world, [{**row, "event_time": row["event_time"] + 40 * HOUR} for row in events(PAST)])
    rows = [{**row, "event_time": row["event_time"] + 105 * HOUR} for row in events(30)]
    world.send(rows[:5])
    world.stream("users")
    now = max(row["event_time"] for row in rows[:5])
    ask(world, "a", now)
    world.archive("events")
    take(world, path)
    fill(world, replace_existing=True)
    ask(world, "b", now)
    values = served(world)
    assert [row[1:] for row in values[:5]] != [row[1:] for row in values[5:]]
    world.send(rows[5:])
    world.archive()
    found = consistency_of(world.project, world.stores)
    assert found.mismatched == 0
    assert next(f for f in found.features if f.feature == "clicks").compared == 10


def test_a_second_call_takes_nothing_and_another_past_is_refused(world: World) -> None:
    path = write(world, events(PAST))
    assert take(world, path) == PAST
    assert take(world, path) == 0
    assert fill(world) == PAST
    write(world, events(3), "more")
    with pytest.raises(
        ConfigError, match=r"the stream has a past already, 60 rows from .*; leave --events out to use it"
    ):
        take(world, path)
    assert fill(world, replace_existing=True) == PAST


def test_a_past_that_is_archived_in_part_is_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole, commits = write(world, events(PAST)), Registry.commit, 0

    def dies(self: Registry, *arguments: Any, **named: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise KeyboardInterrupt
        whole(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            take(world, path)
    with pytest.raises(StateError, match=r"archived in part, .* of 60 rows: go on with --events events="):
        fill(world)
    assert 0 < take(world, path) < PAST
    log = archived_events(world.project, world.stores)["events"]
    offsets = pa.concat_tables(log.read(["_offset"], None, START * 2)).column("_offset").to_pylist()
    assert sorted(offsets) == list(range(PAST))


def test_rows_of_a_time_that_the_stream_has_are_left_out_by_name_only(world: World) -> None:
    path = write(world, events(PAST))
    own = [row for row in events(PAST + 10) if row["event_time"] >= START + 40 * HOUR]
    world.send(own)
    world.archive("events")
    with pytest.raises(StateError, match=r"rows of both would count twice.*--before 2024-03-19T"):
        take(world, path)
    first = min(row["event_time"] for row in own)
    with pytest.raises(StateError, match="count twice"):
        take(world, path, first + 1)
    assert take(world, path, first) == sum(row["event_time"] < first for row in events(PAST))
    assert fill(world) == len({(r["user_id"], r["event_time"]) for r in [*events(PAST), *own]})


@pytest.mark.parametrize(
    ("row", "columns", "says"),
    [
        ({"user_id": None}, {}, r"part-0\.parquet, row 4: column user_id is missing or NULL; it is NOT NULL in"),
        ({"event_time": 250_000_000 * HOUR // 100}, {}, r"row 4: event_time is more than max_ahead"),
        ({"price": 10**9}, {"price": pa.int64()}, r"row 4: column price"),
    ],
)
def test_a_wrong_row_is_told_with_its_file_and_number(
    world: World, row: dict[str, Any], columns: dict[str, pa.DataType], says: str
) -> None:
    rows = events(9)
    rows[3] |= row
    path = write(world, rows, **columns)
    with pytest.raises(WireError, match=says):
        take(world, path)
    assert history_of(world.stores.registry, "events") is None
    assert take(world, write(world, events(9))) == 9


def test_a_file_without_a_column_is_told_as_such(world: World) -> None:
    path = write(world, events(9))
    for part in [path] if path.is_file() else path.rglob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(["user_id"]), part)
    says = r"part-0\.parquet has no column user_id, which is NOT NULL in .*Write the file with it"
    with pytest.raises(WireError, match=says):
        take(world, path)


@pytest.mark.parametrize(
    ("rows", "before", "says"),
    [([], None, "no Parquet file|no row"), (events(5), START - 100 * HOUR, "no row --before")],
)
def test_nothing_is_no_past(world: World, rows: list[dict[str, Any]], before: int | None, says: str) -> None:
    with pytest.raises(DovetailError, match=says):
        take(world, write(world, rows), before)


def test_a_topic_does_not_grow_into_its_past(world: World) -> None:
    take(world, write(world, events(9)))
    refuse_grown(world.project, world.stores.registry)
    toml = (world.folder / "dovetail.toml").read_text(encoding="utf-8")
    (world.folder / "dovetail.toml").write_text(toml.replace("partitions = 2", "partitions = 17"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"partitions = 17: partition 16 of its archive is the past"):
        refuse_grown(world.load(), world.stores.registry)


@pytest.mark.parametrize("form", LAKES)
def test_a_table_of_a_lake_is_a_past_as_files_are(world: World, tmp_path: Path, form: str) -> None:
    rows = pa.Table.from_pylist(events(PAST), schema=world.project.streams["events"].schema.arrow)
    columns = [
        column.cast(pa.timestamp("us", "UTC")) if pa.types.is_timestamp(column.type) else column for column in rows
    ]
    where = LAKES[form](tmp_path / "lake", pa.table(columns, names=rows.column_names))
    assert take(world, Path(where)) == PAST
    assert fill(world) == PAST
    log = archived_events(world.project, world.stores)["events"]
    assert pa.concat_tables(log.read(rows.column_names, None, 2 * START)).equals(rows.sort_by("event_time"))
