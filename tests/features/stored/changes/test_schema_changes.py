"""What a definition reads is its meaning: schemas change around it, and state, snapshots and archives stay right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.jobs import BackfillRequest, archived_events, open_backfill, served_rows
from dovetail.app.reports import consistency_of
from dovetail.app.reports.witnessed import witness_of
from dovetail.features import Project
from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.consistency import equal_bits
from dovetail.features.stored.fingerprints import former_fingerprint, records_of
from dovetail.features.stored.registration import as_registered, changes, data_of, register
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import DefinitionError, WireError
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.stores.registry.definition_log import BackfillDay, DefinitionUse
from tests.features.stored.stored_world import FILES, START, TOML, World, events

EVENTS = """CREATE TABLE events (user_id VARCHAR NOT NULL, kind VARCHAR, price DECIMAL(9,2),
                     event_time TIMESTAMP NOT NULL, shop INTEGER, note VARCHAR);"""
USERS = """
SELECT user_id, count(*) FILTER (WHERE kind = 'click') OVER day AS clicks, avg(price) OVER day AS price,
       last(shop) OVER day AS shop, max(price) OVER day AS most, count(DISTINCT shop) OVER day AS shops,
       arg_max(shop, event_time, 3) OVER day AS visits, max(shop) OVER day - min(shop) OVER day AS spread
FROM events WHERE shop + 1 > 0
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW)
"""
NESTED = """
SELECT user_id, count(*) OVER w AS n, sum(shop) OVER w AS total
FROM (SELECT * FROM events WHERE shop > 2)
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
"""
NAMED = NESTED.replace("SELECT *", "SELECT user_id, shop, event_time")
RANKING = """
SELECT request_id, item_id, hour(request_time) AS hour, users.clicks, users.price, users.shop, users.most,
       users.shop + item_id AS both, users.visits, users.spread, nested.n, nested.total, profile.category
FROM request LEFT JOIN users USING (user_id) LEFT JOIN nested USING (user_id) LEFT JOIN profile USING (item_id)
"""
REST = FILES["schemas"].split(";", 1)[1]


def schemas(events: str = EVENTS, rest: str = REST) -> str:
    return events + rest


@pytest.fixture
def world(tmp_path: Path) -> World:
    files = {"schemas": schemas(), "users": USERS, "nested": NESTED, "profile": FILES["profile"], "ranking": RANKING}
    toml = TOML.replace("partitions = 2", 'partitions = 1\nallowed_lateness = "12h"')
    return World(tmp_path / "shop", toml, files)


def give(world: World, first: int, hours: int, **more: object) -> None:
    """A worker's life from its registration on: events, and requests answered from what had arrived; archived."""
    restart(world)
    for hour in range(first, hours, 3):
        rows = [{**row, "shop": n % 7 - 1, "note": f"n{n}"} for n, row in enumerate(events(3, first=hour), start=hour)]
        names = world.project.streams["events"].schema.arrow.names
        world.send([{name: value for name, value in {**row, **more}.items() if name in names} for row in rows])
        world.stream(*world.project.stream_views)
        newest = max(rows, key=lambda row: row["event_time"])
        asked = {"request_id": f"r{hour}", "user_id": newest["user_id"], "request_time": newest["event_time"]}
        world.ask([{**asked, "candidates": [{"item_id": i} for i in range(3)]}])
        world.answer()
    world.archive()


def restart(world: World) -> Project:
    project = world.load()
    register(project, world.stores.registry, world.stores.online)
    world.project = as_registered(project, world.stores.registry)
    return world.project


def served_equals_both_engines(world: World) -> pa.Table:
    """The snapshots in the order of their requests: each value is what batch makes of the archive, and stream, to the
    bit."""
    verdict = consistency_of(world.project, world.stores)
    assert verdict.compared >= 100
    assert verdict.mismatched == 0
    registry, offline = world.stores.registry, world.stores.offline
    declared = world.project.streams["events"].schema.arrow
    names = [name for name in (*declared.names, *OWN_COLUMNS) if name != "note"]
    parts = archived_events(world.project, world.stores)["events"].read(names, None, START << 1)
    kept = conformed(
        pa.concat_tables(parts, promote_options="permissive"), declared, called="the archive"
    )  # nobody reads notes
    log = {"events": kept.sort_by([(name, "ascending") for name in OWN_COLUMNS])}
    snapshots = read_dataset(registry, offline, "snapshots").sort_by([("request_time", "ascending")])
    asked = served_rows(world.project.feature_set, snapshots)
    items = {"items": offline.read(str(world.folder / "items.parquet"))}
    batch, stream = (
        world.project.evaluate(None, asked, log, tables=items, engine=engine, visibility="as_served")
        for engine in ("batch", "stream")
    )
    for column in world.project.feature_set.columns_of("request", "streaming"):
        served = snapshots.column(column.name).cast(column.type)
        assert equal_bits(batch.column(column.name), served).all(), column.name
        assert equal_bits(stream.column(column.name), served).all(), column.name
    return batch


def what(world: World) -> Mapping[str, str]:
    found = changes(world.load(), world.stores.registry, world.stores.online)
    return {change.name: change.what for change in found}


ADDED = EVENTS.replace("note VARCHAR", "note VARCHAR, device VARCHAR")
ALLOWED = {
    "added and reordered": """CREATE TABLE events (note VARCHAR, device VARCHAR, shop INTEGER, kind VARCHAR,
                              event_time TIMESTAMP NOT NULL, price DECIMAL(9,2), user_id VARCHAR NOT NULL);""",
    "unread dropped, may be NULL": EVENTS.replace(", note VARCHAR", "").replace("VARCHAR NOT NULL", "VARCHAR"),
    "unread of another type": EVENTS.replace("note VARCHAR", "note BIGINT"),
    "wider": EVENTS.replace("shop INTEGER", "shop BIGINT").replace("DECIMAL(9,2)", "DECIMAL(15,2)"),
}


@pytest.mark.parametrize("changed", ALLOWED.values(), ids=ALLOWED)
def test_state_goes_on_and_values_are_the_same_over_a_change_around_what_is_read(world: World, changed: str) -> None:
    if "note BIGINT" in changed:
        world.write("nested", NAMED)
    give(world, 0, 18)
    before = {view: world.stores.online.progress(view) for view in ("users", "nested")}
    served = served_equals_both_engines(world)
    world.write("schemas", schemas(changed))
    assert set(what(world).values()) == {"same"}
    restart(world)
    assert {view: world.stores.online.progress(view) for view in before} == before
    again = served_equals_both_engines(world)
    assert again.to_pylist() == served.to_pylist()
    more = {"note": 5} if "note BIGINT" in changed else {}
    give(world, 18, 30, device="ios", **more)
    after = served_equals_both_engines(world)
    assert after.slice(0, served.num_rows).to_pylist() == served.to_pylist()
    assert {p.next_offset for p in world.stores.online.progress("users").values()} != {
        p.next_offset for p in before["users"].values()
    }
    assert witness_of(world.project, world.stores, 5).mismatched == 0


def test_a_wider_column_takes_values_that_did_not_fit(world: World) -> None:
    give(world, 0, 12)
    world.write("schemas", schemas(EVENTS.replace("shop INTEGER", "shop BIGINT")))
    give(world, 12, 30, shop=1 << 40)
    found = served_equals_both_engines(world)
    assert found.schema.field("shop").type == pa.int64()
    assert 1 << 40 in found.column("shop").to_pylist()
    world.write("schemas", schemas())
    with pytest.raises(DefinitionError, match=r"nested means something else .*: it reads events.shop int64 -> int32"):
        restart(world)


REFUSED = {
    "narrower": (EVENTS.replace("DECIMAL(9,2)", "DECIMAL(8,2)"), {"users", "nested", "ranking"}),
    "another scale": (EVENTS.replace("DECIMAL(9,2)", "DECIMAL(12,3)"), {"users", "nested", "ranking"}),
    "handed on by *": (EVENTS.replace("note VARCHAR", "note BIGINT"), {"nested"}),
}


@pytest.mark.parametrize(("changed", "names"), REFUSED.values(), ids=REFUSED)
def test_what_changes_a_value_that_is_read_is_refused(world: World, changed: str, names: set[str]) -> None:
    give(world, 0, 12)
    world.write("schemas", schemas(changed))
    assert {name for name, change in what(world).items() if change == "changed"} == names
    with pytest.raises(DefinitionError, match="means something else"):
        restart(world)


def test_a_width_that_an_expression_shows_is_part_of_its_meaning(world: World) -> None:
    world.write("users", USERS.replace("shop + 1 > 0", "hash(shop) > 0"))
    give(world, 0, 12)
    world.write("schemas", schemas(EVENTS.replace("shop INTEGER", "shop BIGINT")))
    assert {name for name, change in what(world).items() if change == "changed"} == {"users"}


def test_a_new_view_over_a_new_column_is_built_from_files_that_lack_it(world: World) -> None:
    give(world, 0, 18)
    world.write("schemas", schemas(ADDED))
    world.write("devices", NESTED.replace("sum(shop) OVER w AS total", "last(device) OVER w AS device"))
    world.write("ranking_v2", RANKING.replace("nested.total", "nested.total, devices.device").replace(
        "LEFT JOIN profile", "LEFT JOIN devices USING (user_id) LEFT JOIN profile"
    ))  # fmt: skip
    restart(world)
    view = world.project.stream_views["devices"]
    bootstrap(view, world.stores.registry, world.stores.offline, world.stores.online)
    give(world, 18, 30, device="ios")
    folder = world.folder / "out"
    open_backfill(world.project, world.stores, BackfillRequest("ranking_v2", str(folder))).run()
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(folder.rglob("*.parquet"))])
    assert set(rows.column("device").to_pylist()) == {None, "ios"}
    served_equals_both_engines(world)


def test_a_column_of_another_type_is_not_read_as_the_one_declared(world: World) -> None:
    world.write("nested", NAMED)
    give(world, 0, 12)
    world.write("schemas", schemas(EVENTS.replace("note VARCHAR", "note BIGINT")))
    noted = NESTED.replace("SELECT *", "SELECT user_id, note, shop, event_time")
    world.write("notes", noted.replace("sum(shop) OVER w AS total", "max(note) OVER w AS note"))
    restart(world)
    with pytest.raises(WireError, match="note is string there, and declared int64 now"):
        bootstrap(world.project.stream_views["notes"], world.stores.registry, world.stores.offline, world.stores.online)
    columns = ["user_id", "note", "event_time"]
    with pytest.raises(WireError, match=r"\.parquet: note is string there, and declared int64 now"):
        list(archived_events(world.project, world.stores)["events"].read(columns, None, START << 1))
    world.send([{**events(1)[0], "shop": 1, "note": 7}])
    world.archive("events")
    with pytest.raises(WireError, match=r"events: a column was declared otherwise when .*note"):
        read_dataset(world.stores.registry, world.stores.offline, "events")


def test_requests_are_read_as_they_are_declared_now(world: World) -> None:
    give(world, 0, 12)
    rest = REST.replace("user_id VARCHAR, request_time", "device VARCHAR, user_id VARCHAR, request_time")
    world.write(
        "schemas", schemas(rest=rest.replace("STRUCT(item_id BIGINT)", "STRUCT(place INTEGER, item_id BIGINT)"))
    )
    give(world, 12, 24)
    world.write("ranking_v2", RANKING.replace("users.clicks,", "users.clicks, device, place,"))
    restart(world)
    for visibility in ("event_time", "as_served"):
        folder = world.folder / visibility
        asked = BackfillRequest("ranking_v2", str(folder), visibility=visibility)
        assert open_backfill(world.project, world.stores, asked).run().rows == 24
    served_equals_both_engines(world)


def test_a_batch_view_keeps_what_it_reads(world: World) -> None:
    give(world, 0, 12)
    items = "CREATE TABLE items (item_id BIGINT, category VARCHAR, available_at TIMESTAMP NOT NULL)"
    moved = items.replace("(item_id BIGINT, category VARCHAR", "(category VARCHAR, brand VARCHAR, item_id BIGINT")
    assert items in REST
    world.write("schemas", schemas(rest=REST.replace(items, moved)))
    assert what(world)["profile"] == "same"
    world.write("schemas", schemas(rest=REST.replace("category VARCHAR", "category BIGINT")))
    assert what(world)["profile"] == "changed"


def test_a_batch_view_that_may_read_every_column_reads_their_order(world: World) -> None:
    texts = {
        "whole": "SELECT * FROM items",
        "value": "SELECT item_id, len(CAST(items AS VARCHAR)) AS size FROM items",
        "ties": "SELECT item_id, arg_max(category, {'a': available_at, 'b': item_id}) AS x FROM items GROUP BY item_id",
    }
    for name, text in texts.items():
        world.write(name, text)
    restart(world)
    moved = REST.replace("(item_id BIGINT, category VARCHAR,", "(item_id BIGINT, brand VARCHAR, category VARCHAR,")
    world.write("schemas", schemas(rest=moved))
    assert {name: what(world)[name] for name in texts} == dict.fromkeys(texts, "changed")


def as_before(world: World) -> None:
    """Register the project as the version did that took every declared column for part of the meaning."""
    definitions: dict[str, StreamView | BatchView | FeatureSet] = {
        **world.project.stream_views,
        **world.project.batch_views,
        **world.project.feature_sets,
    }
    records = []
    for record in records_of(world.project):
        fingerprint, state = former_fingerprint(definitions[record.name])
        records.append(record._replace(fingerprint=fingerprint, state=state, reads="", mark=""))
    assert world.stores.registry.put_definitions(records, {}) == []


def test_a_project_registered_by_the_version_before_goes_on(world: World) -> None:
    as_before(world)
    assert set(what(world).values()) == {"same"}
    give(world, 0, 12)
    assert set(what(world).values()) == {"same"}
    for record in world.stores.registry.definitions().values():
        assert record.reads
    world.write("schemas", schemas(EVENTS.replace("shop INTEGER", "device VARCHAR, shop BIGINT")))
    give(world, 12, 24)
    served_equals_both_engines(world)


def test_data_made_under_the_former_fingerprint_still_counts(world: World) -> None:
    as_before(world)
    registry, online = world.stores.registry, world.stores.online
    former = registry.definitions()["users"].fingerprint
    day = BackfillDay("out", "2024-03-18", "day=2024-03-18/x.parquet", 1, "x")
    registry.finish_backfill_day(day, [DefinitionUse("users", former, "backfill:out", day.day)])
    restart(world)
    assert registry.definitions()["users"].fingerprint != former
    assert data_of(registry.definitions()["users"], registry, online) == ["1 days of backfill:out"]
    world.write("users", USERS.replace("'click'", "'view'"))
    with pytest.raises(DefinitionError, match="the one that made 1 days of backfill:out"):
        restart(world)


def test_a_backfill_that_the_version_before_began_goes_on(world: World) -> None:
    give(world, 0, 18)
    asked = BackfillRequest("ranking", str(world.folder / "out"))
    first = open_backfill(world.project, world.stores, asked)
    first.run(last=first.days()[0])
    registry = world.stores.registry
    job, _ = registry.backfill(first.name)
    views = {name: former_fingerprint(world.project.stream_views[name])[0] for name in ("users", "nested")}
    views["profile"] = former_fingerprint(world.project.batch_views["profile"])[0]
    registry.begin_backfill(first.name, json.dumps({**json.loads(job or ""), "views": views}))
    assert open_backfill(world.project, world.stores, asked).run().written == first.days()[1:]


def test_a_change_together_with_the_new_version_says_what_to_do(world: World) -> None:
    as_before(world)
    world.send([{**row, "shop": 1, "note": None} for row in events(3)])
    world.stream("users")
    world.write("schemas", schemas(ADDED))
    with pytest.raises(DefinitionError, match="start once with the tables as they were, then change them"):
        restart(world)
