"""A backfill is the same whether it is interrupted, repeated or cut otherwise; and it says no to what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.storage import load_table
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.plan.request import flatten_requests
from dovetail.features.stored.backfill import Backfill
from dovetail.features.stored.day_engine import LocalDays
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError, DefinitionError, StoreError, WireError
from tests.features.stored.stored_world import START, World, events, requests


@pytest.fixture
def asked(world: World) -> World:
    """Ninety hours of events and four days of requests in the archive."""
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    return world


def job(world: World, out: str = "out", **options: Any) -> Backfill:
    features = options.pop("features", "ranking")
    return open_backfill(world.project, world.stores, BackfillRequest(features, str(world.folder / out), **options))


def rows_of(world: World, out: str = "out") -> pa.Table:
    return ds.dataset(world.folder / out, format="parquet").to_table()


def files_of(world: World, out: str = "out") -> dict[str, bytes]:
    folder = world.folder / out
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def expected(world: World) -> pa.Table:
    stores = world.stores
    flat = flatten_requests(read_dataset(stores.registry, stores.offline, "requests"))
    log = read_dataset(stores.registry, stores.offline, "events")
    config = world.project.config
    return evaluate_feature_set(
        world.project, world.project.feature_set, flat, {"events": log}, lambda table: load_table(config, table)
    )


def test_every_row_has_what_the_feature_set_says(asked: World) -> None:
    result = job(asked).run()
    assert len(result.written) == 4
    assert result.rows == 4 * 5 * 3
    found = rows_of(asked)
    assert found.drop_columns(["request_time"]).equals(expected(asked))
    assert found.column("clicks").null_count == 0
    assert any(found.column("clicks").to_pylist())


def test_doing_it_twice_changes_nothing(asked: World) -> None:
    first = job(asked).run()
    before = files_of(asked)
    again = job(asked).run()
    assert (again.written, again.done_before) == ([], first.written)
    assert files_of(asked) == before


@pytest.mark.parametrize("limits", [Limits(rows_per_piece=13), Limits(threads=1), Limits(threads=3, rows_per_piece=40)])
@pytest.mark.parametrize("span_rows", [1, 10**9])
def test_no_cut_and_no_number_of_threads_changes_a_byte(asked: World, limits: Limits, span_rows: int) -> None:
    job(asked).run()
    other = job(asked, out="other", limits=limits)
    object.__setattr__(other, "engine", LocalDays(span_rows))
    other.run()
    assert files_of(asked, "other") == files_of(asked)


@pytest.mark.parametrize("dies_after", [1, 2, 3])
def test_interrupted_it_goes_on_with_the_days_that_are_missing(asked: World, dies_after: int) -> None:
    def dies(_day: str, done: int, _of: int) -> None:
        if done == dies_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(asked).run(on_day=dies)
    result = job(asked).run()
    assert len(result.done_before) == dies_after
    job(asked, out="undisturbed").run()
    assert files_of(asked) == files_of(asked, "undisturbed")


def test_a_file_whose_row_is_missing_is_written_again(asked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = type(asked.stores.registry)
    with monkeypatch.context() as patched:

        def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(registry, "finish_backfill_day", dies)
        with pytest.raises(KeyboardInterrupt):
            job(asked).run()
    assert len(files_of(asked)) == 1, "the file is in place, nobody has registered it"
    assert len(job(asked).run().written) == 4
    assert rows_of(asked).num_rows == 60


def test_a_day_is_made_again_when_its_events_change_or_its_file_is_gone(asked: World) -> None:
    job(asked).run()
    before = files_of(asked)
    asked.send([{"user_id": "u1", "kind": "click", "price": 1, "event_time": START + 75 * 3_600_000_000}])
    asked.archive()
    result = job(asked).run()
    assert result.written == job(asked).days()[3:]
    assert rows_of(asked).drop_columns(["request_time"]).equals(expected(asked))
    after = files_of(asked)
    assert len(after) == len(before) == 4
    next((asked.folder / "out").rglob("*.parquet")).unlink()
    assert len(job(asked).run().written) == 1
    assert files_of(asked) == after


def test_days_and_columns_can_be_chosen(asked: World) -> None:
    days = job(asked).days()
    assert job(asked, columns=["clicks"]).run(days[1], days[2]).written == days[1:3]
    found = rows_of(asked)
    assert found.column_names == ["request_id", "item_id", "request_time", "clicks"]
    assert found.num_rows == 30


def test_columns_are_added_to_samples_in_their_order(asked: World) -> None:
    whole = expected(asked)
    job(asked, columns=["hour"]).run()
    flat = rows_of(asked).select(["request_id", "item_id", "request_time"])
    order = [n for n in range(flat.num_rows - 1, -1, -1) if n % 3]
    order.sort(key=lambda n: flat.column("request_time")[n].as_py().date())
    samples = flat.take(order).append_column("label", pa.array([n % 2 for n in order]))
    pq.write_table(samples, asked.folder / "samples.parquet")
    job(asked, out="wide", samples=str(asked.folder / "samples.parquet"), columns=["clicks", "category"]).run()
    wide = rows_of(asked, "wide")
    assert wide.select(samples.column_names).equals(samples)
    assert wide.select(["clicks", "category"]).equals(whole.select(["clicks", "category"]).take(order))


def test_a_sample_without_request_is_refused(asked: World) -> None:
    stray = [{"request_id": "r9", "item_id": 1, "request_time": START}]
    schema = pa.schema({"request_id": pa.string(), "item_id": pa.int64(), "request_time": pa.timestamp("us")})
    pq.write_table(pa.Table.from_pylist(stray, schema=schema), asked.folder / "samples.parquet")
    with pytest.raises(WireError, match=r"1 samples of .* have no request, the first is request_id 'r9', item_id 1"):
        job(asked, samples=str(asked.folder / "samples.parquet")).run()


def test_samples_that_have_the_column_are_refused(asked: World) -> None:
    job(asked).run()
    with pytest.raises(ConfigError, match="--samples have a column 'hour' already"):
        job(asked, out="wide", samples=str(asked.folder / "out")).run()


def test_a_folder_holds_one_backfill(asked: World) -> None:
    job(asked, columns=["clicks"]).run()
    with pytest.raises(ConfigError, match="has a backfill that differs in columns"):
        job(asked, columns=["price"]).run()


def test_what_does_not_exist_is_refused_with_what_does(asked: World) -> None:
    with pytest.raises(ConfigError, match="FEATURES: there is no feature set 'rankin'; did you mean ranking"):
        job(asked, features="rankin")
    with pytest.raises(ConfigError, match="--columns: ranking has no column 'click'; did you mean clicks"):
        job(asked, columns=["click"])
    with pytest.raises(ConfigError, match="--events: there is no stream 'event'; did you mean events"):
        job(asked, events={"event": "x"})
    with pytest.raises(ConfigError, match="no Parquet file there"):
        job(asked, requests=str(asked.folder / "nowhere"))


def test_files_that_do_not_fit_are_named(asked: World) -> None:
    path = asked.folder / "bad.parquet"
    pq.write_table(pa.table({"request_time": ["today"]}), path)
    with pytest.raises(WireError, match=r"bad\.parquet: request_time is string, not a timestamp"):
        job(asked, requests=str(path))
    pq.write_table(pa.table({"request_id": ["r"]}), path)
    with pytest.raises(WireError, match=r"bad\.parquet: no column 'request_time'; it has request_id"):
        job(asked, requests=str(path))
    pq.write_table(pa.table({"request_time": pa.array([START, None], pa.timestamp("us"))}), path)
    with pytest.raises(WireError, match="has 1 rows or more without request_time"):
        job(asked, requests=str(path))
    pq.write_table(pa.table({"request_time": pa.array([START], pa.timestamp("us"))}), path)
    with pytest.raises(WireError, match="have no column 'request_id', which the features read"):
        job(asked, requests=str(path)).run()
    path.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"bad\.parquet: no readable Parquet file"):
        job(asked, requests=str(path))


def test_the_sql_is_shown(asked: World) -> None:
    script = job(asked, columns=["clicks", "category"]).explain()
    assert "-- users (" in script
    assert "count(*" in script
    assert "max(category) AS category FROM items GROUP BY item_id;" in script
    assert '"users.clicks"' in script
    served = job(asked, visibility="as_served").explain()
    assert "SEMI JOIN unseen" in served, "what is done about late events is shown, too"


def test_the_registry_knows_what_was_made_with_which_definition(asked: World) -> None:
    result = job(asked).run()
    uses = asked.stores.registry.uses()
    assert {use.definition for use in uses} == {"ranking", "users", "profile"}
    assert {use.dataset for use in uses} == {f"backfill:{asked.folder / 'out'}"}
    assert sorted({use.day for use in uses}) == list(result.written)


def test_a_definition_that_has_data_and_changed_is_refused(asked: World) -> None:
    job(asked).run()
    asked.write("profile", "SELECT item_id, min(category) AS category FROM items GROUP BY item_id")
    asked.load()
    with pytest.raises(DefinitionError, match=r"profile.sql:1: batch view profile means something else"):
        job(asked, out="other")


def test_as_served_is_what_was_served_and_event_time_is_not(world: World) -> None:
    world.live(36)
    job(world, visibility="as_served").run()
    job(world, out="all", requests="archive").run()
    by_key = [("request_id", "ascending"), ("item_id", "ascending")]
    served = read_dataset(world.stores.registry, world.stores.offline, "snapshots").sort_by(by_key)
    then, happened = rows_of(world).sort_by(by_key), rows_of(world, "all").sort_by(by_key)
    for name in ("hour", "clicks", "price"):
        assert then.column(name).equals(served.column(name)), name
    assert not happened.column("clicks").equals(then.column("clicks")), "some event was late"


def test_events_can_come_from_files(asked: World, tmp_path: Path) -> None:
    job(asked).run()
    log = read_dataset(asked.stores.registry, asked.stores.offline, "events")
    pq.write_table(log.drop_columns(["_partition", "_offset", "_row"]), tmp_path / "events.parquet")
    job(asked, out="files", events={"events": str(tmp_path / "events.parquet")}).run()
    assert rows_of(asked, "files").equals(rows_of(asked))
