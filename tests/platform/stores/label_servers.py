"""Label stores for the conformance suite: SQLite in a file, and real Redis and PostgreSQL servers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import LabelStore

#: Makes an empty store.
Factory = Callable[[], LabelStore]

_numbers = itertools.count()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("redis-cluster", marks=pytest.mark.services),
        pytest.param("postgresql", marks=pytest.mark.services),
    ]
)
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Factory]:
    """Makes empty label stores of one kind; closes them at the end."""
    made: list[LabelStore] = []

    def url() -> str:
        number = next(_numbers)
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / f'labels-{number}.sqlite'}"
        if request.param != "postgresql":
            return str(request.getfixturevalue(f"{request.param.replace('-', '_')}_url"))
        server = str(request.getfixturevalue("postgresql_url"))
        engine = sa.create_engine(server)
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA labels{number}"))
        engine.dispose()
        return f"{server}?options=-csearch_path%3Dlabels{number}"

    def make() -> LabelStore:
        while made:  # one at a time: a server has only so many connections
            made.pop().close()
        store = open_label_store(url(), f"test-{os.getpid()}-{next(_numbers)}")
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()
