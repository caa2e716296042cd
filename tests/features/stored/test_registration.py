"""A definition keeps its meaning as long as it keeps its name and has data."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.worker import assemble
from dovetail.features import Project
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.fingerprints import family_of, records_of
from dovetail.features.stored.registration import (
    Change,
    changes,
    data_of,
    register,
    register_rebuilt,
)
from dovetail.platform.errors import DefinitionError
from dovetail.platform.stores.registry.definition_log import DefinitionRecord
from dovetail.platform.stores.registry.store import Registry
from tests.features.stored.stored_world import FILES, World, events, requests

OTHER = FILES["users"].replace("'click'", "'view'")


def change_of(world: World, name: str) -> Change:
    found = changes(world.project, world.stores.registry, world.stores.online)
    return next(change for change in found if change.name == name)


def registered(world: World) -> None:
    register(world.project, world.stores.registry, world.stores.online)


def test_what_is_new_is_registered_with_its_version(world: World) -> None:
    world.write("users_v2", OTHER)
    world.load()
    assert change_of(world, "users").what == "new"
    registered(world)
    records = world.stores.registry.definitions()
    assert {name: (r.kind, r.version) for name, r in records.items()} == {
        "users": ("streaming", 1),
        "users_v2": ("streaming", 2),
        "profile": ("batch", 1),
        "ranking": ("feature set", 1),
    }
    assert records["users"].text == FILES["users"]
    assert records["users"].fingerprint != records["users_v2"].fingerprint
    assert change_of(world, "users").what == "same"


def test_layout_comments_and_case_mean_nothing(world: World) -> None:
    registered(world)
    world.write("users", "-- rewritten\n" + re.sub(r"\s+", " ", FILES["users"]).replace("count", "COUNT"))
    world.load()
    assert change_of(world, "users").what == "same"


def test_case_in_a_string_means_something(world: World) -> None:
    registered(world)
    world.write("users", FILES["users"].replace("'click'", "'CLICK'"))
    world.load()
    assert change_of(world, "users").what == "changed"


def test_without_data_a_definition_may_change(world: World) -> None:
    registered(world)
    world.write("users", OTHER)
    world.load()
    assert not change_of(world, "users").refused
    registered(world)
    assert change_of(world, "users").what == "same"


def test_a_worker_refuses_a_changed_definition_that_has_data(world: World) -> None:
    assemble(world.project, roles=["features"]).stores.close()
    world.send(events(10))
    world.stream("users")
    world.write("users", OTHER)
    world.load()
    with pytest.raises(
        DefinitionError,
        match=r"users.sql:2: streaming view users means .* made online state up to 10 messages: - .*users_v2.sql",
    ):
        assemble(world.project, roles=["features"])
    world.write("users", FILES["users"])
    world.write("users_v2", OTHER)
    assemble(world.load(), roles=["features"]).stores.close()


def test_the_difference_says_what_it_means_for_stored_state(world: World) -> None:
    registered(world)
    world.send(events(10))
    world.stream("users")
    world.write("users", FILES["users"].replace("AS clicks", "AS clicked"))
    world.write("ranking", FILES["ranking"].replace("users.clicks", "users.clicked"))
    world.load()
    renamed = change_of(world, "users")
    assert renamed.columns == ["+ clicked int64", "- clicks int64"]
    assert renamed.state == "stored state can be read"
    world.write("users", FILES["users"].replace("INTERVAL 1 HOUR", "INTERVAL 2 HOUR"))
    world.write("ranking", FILES["ranking"])
    world.load()
    moved = change_of(world, "users")
    assert moved.state == "stored state cannot be read; it must be built again"
    assert moved.refused
    assert moved.to_json()["refused"]
    world.write("ranking", "SELECT request_id, item_id FROM request")
    (world.folder / "sql" / "users.sql").unlink()
    world.load()
    assert change_of(world, "users").what == "gone"


def test_a_backfill_is_data(world: World) -> None:
    world.send(events(30))
    world.ask(requests(1))
    world.archive()
    registered(world)
    open_backfill(world.project, world.stores, BackfillRequest("ranking", str(world.folder / "out"))).run()
    for name in ("users", "profile", "ranking"):
        data = data_of(world.stores.registry.definitions()[name], world.stores.registry, world.stores.online)
        assert f"1 days of backfill:{world.folder / 'out'}" in data
    world.write("profile", FILES["profile"].replace("max", "min"))
    world.load()
    with pytest.raises(DefinitionError, match=r"profile means .* made 1 stored versions, 1 days of backfill"):
        registered(world)


def test_state_alone_may_be_built_again_by_the_new_meaning(world: World) -> None:
    registered(world)
    world.send(events(30))
    world.ask(requests(1))
    world.stream("users")
    world.archive()
    world.write("users", OTHER)
    world.load()
    stores = world.stores
    with register_rebuilt(world.project, stores.registry, stores.online, "users"):
        view = world.project.stream_views["users"]
        bootstrap(view, stores.registry, stores.offline, stores.online, replace_existing=True)
    assert change_of(world, "users").what == "same"
    open_backfill(world.project, stores, BackfillRequest("ranking", str(world.folder / "out"))).run()
    world.write("users", FILES["users"])
    world.load()
    with (
        pytest.raises(DefinitionError, match="made online state up to 30 messages, 1 days of backfill"),
        register_rebuilt(world.project, stores.registry, stores.online, "users"),
    ):
        raise AssertionError("it must not be built")


class Together(Registry):
    """A registry whose readers of the definitions wait for each other, so that none has seen what the other writes."""

    def __init__(self, url: str, barrier: threading.Barrier) -> None:
        super().__init__(url)
        self._barrier = barrier

    def definitions(self) -> dict[str, DefinitionRecord]:
        found = super().definitions()
        self._barrier.wait(timeout=30)
        return found


def at_once(world: World, projects: Sequence[Project], url: str) -> list[str]:
    """What each of two workers is told that register at the same moment; empty where all is well."""
    barrier = threading.Barrier(len(projects))
    registries = [Together(url, barrier) for _ in projects]

    def one(project: Project, registry: Registry) -> str:
        try:
            register(project, registry, world.stores.online)
        except DefinitionError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(projects)) as pool:
        told = list(pool.map(one, projects, registries))
    for registry in registries:
        registry.close()
    return told


THIRD = FILES["users"].replace("'click'", "'order'")
_schemas = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def registry_url(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    """Where a registry is that knows nothing; on PostgreSQL in a schema of its own."""
    if request.param == "sqlite":
        yield sqlite_of(world)
        return
    server, schema = str(request.getfixturevalue("postgresql_url")), f"registration{os.getpid()}_{next(_schemas)}"
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    yield f"{server}?options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    made = Registry(registry_url)
    yield made
    made.close()


@pytest.mark.parametrize("known", [None, FILES["users"], OTHER], ids=["nothing", "the one", "the other"])
@pytest.mark.parametrize("other", [FILES["users"], OTHER, THIRD], ids=["same", "other", "third"])
def test_of_workers_that_register_at_once_one_meaning_stays(
    world: World, registry: Registry, registry_url: str, known: str | None, other: str
) -> None:
    one = world.load()
    if known is not None:
        world.write("users", known)
        register(world.load(), registry, world.stores.online)
    world.write("users", other)
    two = world.load()
    told = at_once(world, [one, two], registry_url)
    stays = registry.definitions()["users"].text
    if other == FILES["users"]:
        assert told == ["", ""]
        assert stays == other
    elif told == ["", ""]:  # the one that changes nothing was first: as if it had come long before
        assert known in (FILES["users"], other)
        assert stays != known
    else:
        (refused,) = filter(None, told)
        assert re.search(
            r"users\.sql:\d+: streaming view users means something else than the one that another", refused
        )
        assert "users_v2.sql" in refused
        assert stays == (FILES["users"], other)[told.index("")]


def test_workers_whose_definitions_come_in_another_order_wait_for_each_other(
    world: World, registry_url: str, registry: Registry
) -> None:
    """Each holds what the other is about to write, were the rows written in the order given."""
    record = records_of(world.project)[0]
    records = [record._replace(name=f"{record.name}_v{number}") for number in range(2, 202)]
    registries = [Registry(registry_url) for _ in range(2)]
    barrier = threading.Barrier(2)

    def put(mine: Registry, ordered: Sequence[DefinitionRecord]) -> Sequence[str]:
        barrier.wait(timeout=30)
        return mine.put_definitions(ordered, {})

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(put, registries, (records, records[::-1]))) == [[], []]
    assert set(registry.definitions()) == {record.name for record in records}
    for mine in registries:
        mine.close()


def test_a_refused_registration_leaves_nothing(world: World, registry: Registry) -> None:
    """``profile`` comes before ``users`` and would have been new."""
    late = [record for record in records_of(world.project) if record.name != "ranking"]
    world.write("users", OTHER)
    first = [record for record in records_of(world.load()) if record.name == "users"]
    assert registry.put_definitions(first, {}) == []
    assert registry.put_definitions(late, {}) == ["users"]
    assert set(registry.definitions()) == {"users"}
    assert registry.definitions()["users"].text == OTHER


def test_a_view_rebuilt_while_another_worker_changes_it_is_refused(world: World, registry: Registry) -> None:
    register(world.project, registry, world.stores.online)
    world.write("users", OTHER)
    other = world.load()

    def rebuild() -> None:
        with register_rebuilt(other, registry, world.stores.online, "users"):
            world.write("users", THIRD)
            register(world.load(), registry, world.stores.online)

    with pytest.raises(DefinitionError, match="another worker has registered meanwhile"):
        rebuild()


def sqlite_of(world: World) -> str:
    return f"sqlite:///{world.project.config.path(world.project.config.storage.state) / 'registry.sqlite'}"


@pytest.mark.parametrize(
    ("name", "family"), [("a", ("a", 1)), ("a_v2", ("a", 2)), ("a_v10", ("a", 10)), ("a_v0", ("a_v0", 1))]
)
def test_a_version_is_part_of_the_name(name: str, family: tuple[str, int]) -> None:
    assert family_of(name) == family
