"""A changed definition is refused with what differs and the ways in which the new meaning can be had."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from dovetail.app.worker import assemble
from dovetail.cli.main import app
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.registration import Change, changes, register, register_rebuilt
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.definition_log import DefinitionUse
from tests.features.stored.stored_world import FILES, World, events

Edit = Callable[[World], None]


def with_data(world: World, *, snapshots: bool = False) -> None:
    """State of ``users``, and days of snapshots if asked."""
    register(world.project, world.stores.registry, world.stores.online)
    world.send(events(20))
    world.stream("users")
    world.archive("events")
    if snapshots:
        for name in ("users", "ranking", "profile"):
            used(world, name)


def used(world: World, name: str) -> None:
    mark = world.stores.registry.definitions()[name].fingerprint
    use = DefinitionUse(name, mark, "snapshots", "2024-03-18")
    at = world.stores.registry.progress(f"test.{name}").get(0, Progress())
    world.stores.registry.commit(
        f"test.{name}", 0, expected=at.next_offset, progress=Progress(at.next_offset + 1), accounts=[], uses=[use]
    )


def toml(world: World, old: str, new: str) -> None:
    path = world.folder / "dovetail.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def refusal(world: World) -> str:
    with pytest.raises(DefinitionError) as refused:
        assemble(world.load(), roles=["features"])
    return str(refused.value)


def change_of(world: World, name: str) -> Change:
    found = changes(world.load(), world.stores.registry, world.stores.online)
    return next(change for change in found if change.name == name)


def test_another_text_is_shown_line_by_line(world: World) -> None:
    with_data(world, snapshots=True)
    world.write("users", FILES["users"].replace("'click'", "'view'"))
    change = change_of(world, "users")
    assert [line[:2] for line in change.differences] == ["- ", "+ "]
    assert "'click'" in change.differences[0]
    assert "'view'" in change.differences[1]
    said = refusal(world)
    assert (
        "means something else than the one that made online state up to 20 messages, 1 days of snapshots: - SELECT"
        in said
    )
    assert (
        "put it back as it was, and write the new one to users_v2.sql, which `dovetail bootstrap users_v2` gives"
        in said
    )
    assert "--replace" not in said


def test_state_alone_is_built_again(world: World) -> None:
    with_data(world)
    world.write("users", FILES["users"].replace("'click'", "'view'"))
    assert "stop the workers and run `dovetail bootstrap users --replace`, which builds its state again" in refusal(
        world
    )
    rebuild(world)
    assemble(world.load(), roles=["features"]).stores.close()


def rebuild(world: World) -> None:
    stores, project = world.stores, world.load()
    with register_rebuilt(project, stores.registry, stores.online, "users"):
        bootstrap(project.stream_views["users"], stores.registry, stores.offline, stores.online, replace_existing=True)


def test_strictly_before_is_named(world: World) -> None:
    with_data(world, snapshots=True)
    toml(world, "[labels]", "[features]\nstrictly_before = true\n[labels]")
    said = refusal(world)
    assert "[features] strictly_before: false -> true" in said
    assert "set [features] strictly_before back, and write the new one to users_v2.sql" in said
    assert "EXCLUDE GROUP in its frames says strictly before for one view" in said


def test_a_longer_allowed_lateness_means_the_same_and_wants_state_built_again(world: World) -> None:
    with_data(world, snapshots=True)
    before = change_of(world, "users")
    assert before.what == "same"
    toml(world, 'key = "user_id"', 'key = "user_id"\nallowed_lateness = "3h"')
    change = change_of(world, "users")
    assert change.differences == ["[streams.events] allowed_lateness: 1 h -> 3 h"]
    assert change.rebuilds
    said = refusal(world)
    assert "stop the workers and run `dovetail bootstrap users --replace`" in said
    assert "or set [streams.events] allowed_lateness back" in said
    rebuild(world)
    assert change_of(world, "users").what == "same"
    assemble(world.load(), roles=["features"]).stores.close()


def test_other_kinds_are_told_their_ways(world: World) -> None:
    with_data(world, snapshots=True)
    world.write("ranking", FILES["ranking"].replace("hour(request_time) AS hour", "minute(request_time) AS hour"))
    assert "write the new one to ranking_v2.sql, and name it in [request] feature_set" in refusal(world)
    world.write("ranking", FILES["ranking"])
    toml(world, "[labels]", '[batch_views.profile]\nevery = "6h"\n[labels]')
    said = refusal(world)
    assert "[batch_views.profile] every: 1 d -> 6 h" in said
    assert "profile_v2.sql, whose versions are computed when asked for" in said


def test_columns_that_are_read_are_named(world: World) -> None:
    with_data(world, snapshots=True)
    world.write("schemas", FILES["schemas"].replace("price DECIMAL(9,2)", "price DECIMAL(9,3)"))
    assert "reads events.price: decimal128(9, 2) -> decimal128(9, 3)" in change_of(world, "users").differences
    assert "it reads events.price decimal128(9, 2) -> decimal128(9, 3)" in refusal(world)


def test_check_shows_the_differences(world: World) -> None:
    with_data(world, snapshots=True)
    world.write("users", FILES["users"].replace("INTERVAL 1 DAY", "INTERVAL 2 DAY"))
    ran = CliRunner().invoke(app, ["check", "--diff", "--project", str(world.folder)], env={"COLUMNS": "1000"})
    assert ran.exit_code == 1
    shown = re.sub(r"\s+", " ", ran.stdout)
    assert "refuse to start" in shown
    assert "- RANGE BETWEEN hop(event_time, INTERVAL 1 DAY" in shown
    assert "+ RANGE BETWEEN hop(event_time, INTERVAL 2 DAY" in shown


def test_layout_and_comments_are_no_difference(world: World) -> None:
    with_data(world)
    world.write("users", "-- said anew\n" + FILES["users"])
    assert change_of(world, "users").differences == ()
