"""Online stores for the conformance suite: SQLite in a file; Redis, a Redis Cluster and PostgreSQL where there are any.

A cluster is taken from ``DOVETAIL_TEST_REDIS_CLUSTER`` (a URL), or is three nodes started here, without replicas.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.online_stores import open_online_store
from tests.platform.stores.faults.redis_cluster import running_cluster

#: Makes a store: an empty one, or with ``again`` a further connection to the one made last.
OnlineFactory = Callable[..., OnlineStore]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("DOVETAIL_TEST_REDIS_CLUSTER"):
        yield url
        return
    with running_cluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster.url


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("redis-cluster", marks=pytest.mark.services),
        pytest.param("postgresql", marks=pytest.mark.services),
    ]
)
def new_online_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineFactory]:
    """Makes online stores of one kind; closes them at the end."""
    made: list[OnlineStore] = []
    place = {"url": "", "name": ""}

    def fresh() -> None:
        number = next(_numbers)
        place["name"] = f"online-{os.getpid()}-{number}"
        if request.param == "sqlite":
            place["url"] = f"sqlite:///{tmp_path / f'online-{number}.sqlite'}"
        elif request.param == "postgresql":
            server = str(request.getfixturevalue("postgresql_url"))
            engine = sa.create_engine(server)
            with engine.begin() as connection:
                connection.execute(sa.text(f"CREATE SCHEMA online{number}"))
            engine.dispose()
            place["url"] = f"{server}?options=-csearch_path%3Donline{number}"
        else:
            place["url"] = str(request.getfixturevalue(f"{request.param.replace('-', '_')}_url"))

    def make(*, again: bool = False) -> OnlineStore:
        if not again:
            while made:  # one at a time: a server has only so many connections
                made.pop().close()
            fresh()
        store = open_online_store(place["url"], place["name"])
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()
