"""A STRUCT's members that no definition reads come, go and move like columns that none reads."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.reports import audit_stores, consistency_of
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.members import beside, members_named, only
from dovetail.features.stored.registration import changes, register
from dovetail.platform.errors import DefinitionError, WireError
from tests.features.stored.stored_world import FILES, TOML, World, events

CTX = "ctx STRUCT(os VARCHAR, app STRUCT(name VARCHAR, version INTEGER), ip VARCHAR)"
DEVICE = "device STRUCT(os VARCHAR, ram INTEGER)"
SCHEMAS = (
    FILES["schemas"]
    .replace("kind VARCHAR, price", f"kind VARCHAR, {CTX}, price")
    .replace("user_id VARCHAR, request_time", f"user_id VARCHAR, {DEVICE}, request_time")
)
WINDOW = (
    "WINDOW day AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)"
)
USERS = f"""
SELECT user_id, count(*) FILTER (WHERE ctx.app.name = 'a') OVER day AS apps, last(ctx.os) OVER day AS os,
       avg(price) OVER day AS price
FROM events {WINDOW}
"""
CLEANED = f"""
SELECT user_id, count(DISTINCT os) OVER day AS systems
FROM (SELECT user_id, event_time, upper(ctx.os) AS os FROM events) {WINDOW}
"""
RANKING = """
SELECT request_id, item_id, users.apps, users.os, cleaned.systems, device.os AS system
FROM request LEFT JOIN users USING (user_id) LEFT JOIN cleaned USING (user_id)
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    files = {"schemas": SCHEMAS, "users": USERS, "cleaned": CLEANED, "ranking": RANKING, "profile": FILES["profile"]}
    return World(tmp_path / "shop", TOML.replace("partitions = 2", "partitions = 1"), files)


def members(type_: pa.DataType, number: int) -> object:
    """A value of any type here, every member another one."""
    if pa.types.is_list(type_):
        return [members(type_.value_type, number)]
    if pa.types.is_struct(type_):
        return {member.name: members(member.type, number + at) for at, member in enumerate(type_)}
    return f"{'ab'[number % 2]}" if pa.types.is_string(type_) else number


def live(world: World, first: int, hours: int) -> None:
    register(world.load(), world.stores.registry, world.stores.online)
    ctx = world.project.streams["events"].schema.arrow.field("ctx").type
    device = world.project.request.arrow.field("device").type
    for hour in range(first, hours, 3):
        world.send([{**row, "ctx": members(ctx, hour)} for row in events(3, first=hour)])
        world.stream(*world.project.stream_views)
        newest = max(events(3, first=hour), key=lambda row: row["event_time"])
        asked = {"request_id": f"r{hour}", "user_id": newest["user_id"], "request_time": newest["event_time"]}
        world.ask([{**asked, "device": members(device, hour), "candidates": [{"item_id": 1}]}])
        world.answer()
    world.archive()


def what(world: World) -> dict[str, str]:
    world.load()
    return {change.name: change.what for change in changes(world.project, world.stores.registry, world.stores.online)}


SAME = {"users": "same", "cleaned": "same", "ranking": "same", "profile": "same"}
MOVED = SCHEMAS.replace(CTX, "ctx STRUCT(app STRUCT(build BIGINT, name VARCHAR), lang VARCHAR, os VARCHAR)").replace(
    DEVICE, "device STRUCT(ram BIGINT, model VARCHAR, os VARCHAR)"
)


def test_members_come_go_and_move_and_all_stays_right(world: World) -> None:
    live(world, 0, 24)
    world.write("schemas", MOVED)
    assert what(world) == SAME
    live(world, 24, 48)
    found = consistency_of(world.project, world.stores)
    assert (found.compared, found.mismatched) == (4 * 16, 0)
    assert audit_stores(world.project, world.stores).wrong == []
    out = str(world.folder / "out")
    assert open_backfill(world.project, world.stores, BackfillRequest("ranking", out)).run().rows == 16


def test_a_member_that_is_read_keeps_its_type(world: World) -> None:
    live(world, 0, 6)
    world.write("schemas", SCHEMAS.replace(CTX, CTX.replace("os VARCHAR", "os INTEGER")))
    with pytest.raises(DefinitionError):  # upper of a number: it does not bind
        world.load()
    world.write("cleaned", CLEANED.replace("upper(ctx.os)", "ctx.os"))
    assert what(world)["users"] == "changed"


def test_a_member_beside_may_become_anything(world: World) -> None:
    live(world, 0, 24)
    world.write("schemas", SCHEMAS.replace("version INTEGER", "version VARCHAR").replace("ip VARCHAR", "ip BIGINT[]"))
    assert what(world) == SAME
    live(world, 24, 48)
    found = consistency_of(world.project, world.stores)
    assert (found.compared, found.mismatched) == (4 * 16, 0)
    for name in ("users", "cleaned"):
        view, stores = world.project.stream_views[name], world.stores
        bootstrap(view, stores.registry, stores.offline, stores.online, replace_existing=True)
    assert consistency_of(world.project, world.stores).mismatched == 0
    # Read later, it is not what it was: the files from before are refused, not misread.
    world.write("later", f"SELECT user_id, last(ctx.app.version) OVER day AS version FROM events {WINDOW}")
    with pytest.raises(WireError, match=r"ctx is struct<.*and declared struct<.*version: string"):
        bootstrap(world.load().stream_views["later"], world.stores.registry, world.stores.offline, world.stores.online)


def test_a_member_beside_of_a_request_becomes_wider_and_no_other_type(world: World) -> None:
    live(world, 0, 6)
    world.write("schemas", SCHEMAS.replace("ram INTEGER", "ram BIGINT"))
    assert what(world) == SAME
    world.write("schemas", SCHEMAS.replace("ram INTEGER", "ram VARCHAR"))
    change = next(c for c in changes(world.load(), world.stores.registry, world.stores.online) if c.name == "ranking")
    assert change.what == "changed"
    assert change.retyped == ["request.device.ram int32 -> string"]


@pytest.mark.parametrize("whole", ["ctx['os']", "struct_extract(ctx, 'os')"])
def test_what_is_read_in_another_way_reads_all(world: World, whole: str) -> None:
    world.write("users", USERS.replace("ctx.os", whole))
    live(world, 0, 6)
    world.write("schemas", MOVED)
    assert what(world)["users"] == "changed"
    assert what(world)["cleaned"] == "same"


def test_members_are_told_by_their_paths() -> None:
    assert members_named(["a.B + c", None, "a.x.y"], ["a", "c", "d"]) == {
        "a": frozenset({("b",), ("x", "y")}),
        "c": frozenset({()}),
    }
    assert members_named(["t.a"], ["a"]) == {"a": frozenset({()})}
    type_ = pa.struct([("x", pa.struct([("z", pa.int8()), ("y", pa.int8())])), ("B", pa.int32()), ("q", pa.string())])
    paths = frozenset({("b",), ("x", "y")})
    assert only(type_, paths) == pa.struct([("B", pa.int32()), ("x", pa.struct([("y", pa.int8())]))])
    assert dict(beside(type_, paths)) == {".x.z": pa.int8(), ".q": pa.string()}
    assert only(type_, frozenset({(), ("b",)})) == type_
    assert only(pa.int8(), paths) == pa.int8()
