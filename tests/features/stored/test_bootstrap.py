"""Bootstrapped state and the stream after it are the stream from the start: same bytes, same positions."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stream.keys import encode_keys
from dovetail.platform.errors import StaleCommit, StateError
from dovetail.platform.rows.audit import audit
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.testing import run_stage
from tests.features.stored.stored_world import World, events

_USERS = [f"u{n}" for n in range(5)]
_numbers = itertools.count()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("postgresql", marks=pytest.mark.services),
    ]
)
def new_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Makes worlds whose online stores are empty and of one kind; closes them at the end."""
    made: list[World] = []

    def make() -> World:
        name, url = f"shop_{os.getpid()}_{next(_numbers)}", ""
        if request.param != "sqlite":
            url = str(request.getfixturevalue(f"{request.param}_url"))
        if request.param == "postgresql":
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.execute(sa.text(f'CREATE SCHEMA "{name}"'))
            engine.dispose()
            url += f"?options=-csearch_path%3D{name}"
        made.append(World(tmp_path / name, online=url, name=name))
        return made[-1]

    yield make
    for world in made:
        world.stores.close()


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    return new_world()


def contents(world: World, view: str) -> tuple[Mapping[int, tuple[int, int | None]], list[tuple[Any, ...]]]:
    """Positions with watermarks, and every key's state by partition."""
    online = world.stores.online
    progress = {p: (x.next_offset, x.watermark_us) for p, x in online.progress(view).items()}
    keys, _ = encode_keys([pa.chunked_array([_USERS])])
    states = [(key, p, online.read_partition(view, p, [key])[0]) for key in keys for p in (0, 1)]
    return progress, [state for state in states if state[2] is not None]


def run(world: World, **options: Any) -> int:
    stores = world.stores
    view = world.project.stream_views["users"]
    return bootstrap(view, stores.registry, stores.offline, stores.online, **options).rows


def test_bootstrap_then_stream_is_stream_from_the_start(world: World, new_world: Callable[[], World]) -> None:
    world.send(events(90))
    world.archive()
    assert run(world) == 90
    world.send(events(40, first=90))
    world.stream("users")
    other = new_world()
    other.send(events(130))
    other.stream("users", max_records=130)
    assert contents(world, "users") == contents(other, "users")
    assert contents(world, "users")[1]
    assert audit(world.stores.online.accounts(), []).balanced


def test_a_crash_on_the_way_is_gone_on_from(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(events(90))
    world.archive()
    store = type(world.stores.online)
    whole = store.commit
    commits = 0

    def dies(self: OnlineStore, *arguments: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 3:
            raise KeyboardInterrupt
        whole(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            run(world)
    assert contents(world, "users") == ({}, []), "a half-filled state must not be seen"
    assert 0 < run(world) < 90
    found = contents(world, "users")
    assert run(world, replace_existing=True) == 90
    assert contents(world, "users") == found


def test_a_view_that_has_state_is_refused_unless_replaced(world: World) -> None:
    world.send(events(30))
    world.stream("users")
    streamed = contents(world, "users")
    world.archive()
    with pytest.raises(StateError, match=r"view users has state .*--replace"):
        run(world)
    assert run(world, replace_existing=True) == 30
    assert contents(world, "users") == streamed
    assert audit(world.stores.online.accounts(), []).balanced


def test_a_view_added_to_a_running_stream(world: World) -> None:
    world.send(events(60))
    world.stream("users")
    world.archive()
    world.write("users_v2", (world.folder / "sql" / "users.sql").read_text())
    world.load()
    stores = world.stores
    bootstrap(world.project.stream_views["users_v2"], stores.registry, stores.offline, stores.online)
    world.send(events(30, first=60))
    world.stream("users", "users_v2")
    assert contents(world, "users") == contents(world, "users_v2")


def test_a_worker_that_wrote_meanwhile_is_not_overwritten(world: World) -> None:
    world.send(events(30))
    world.archive()
    stage = world.feature_stage("users")

    def worker(_read: int, _of: int) -> None:
        asyncio.run(run_stage(stage, world.log))

    with pytest.raises(StaleCommit):
        run(world, on_rows=worker)
    assert contents(world, "users")[0]


def test_without_an_archive_there_is_nothing_to_start_from(world: World) -> None:
    with pytest.raises(StateError, match="nothing is archived of stream events"):
        run(world)
    with pytest.raises(StaleCommit):
        world.stores.online.promote("nobody", "users", expected={})
