"""Real Apache Kafka, Redis and PostgreSQL for tests marked ``services``.

Tests that only talk to a server ask for ``kafka_url``, ``redis_url`` or ``postgresql_url``; tests that stop, kill or
pause one ask for ``kafka_server``, ``redis_server`` or ``postgresql_server``, whose handles are in ``scripts/servers``.

A URL comes from ``DOVETAIL_TEST_KAFKA``, ``DOVETAIL_TEST_REDIS`` or ``DOVETAIL_TEST_POSTGRESQL``; handles, and URLs
without such a variable, from the folder ``DOVETAIL_TEST_SERVICES`` that ``scripts/services`` names; without that the
server is started here, when the first test asks, and removed at the end of the session. A server that cannot be
started is an error, not a skipped test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from scripts.servers import Kafka, PostgreSQL, Redis, Server, existing, remove, start

__all__ = [
    "kafka_server",
    "kafka_url",
    "postgresql_server",
    "postgresql_url",
    "redis_server",
    "redis_url",
    "running_server",
]

S = TypeVar("S", bound=Server)


@pytest.fixture(scope="session")
def running_server() -> Iterator[Callable[[str], Server]]:
    """By name, the session's server: the one that is there, or one started now."""
    own = Path(tempfile.mkdtemp(prefix="dovetail-services-"))
    given = os.environ.get("DOVETAIL_TEST_SERVICES")
    found: dict[str, Server] = {server.name: server for server in existing(Path(given))} if given else {}

    def get(name: str) -> Server:
        if name not in found:
            found[name] = start(own, [name])[0]
        return found[name]

    try:
        yield get
    finally:
        remove(own)
        shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_url(running_server: Callable[[str], Server]) -> str:
    """A broker, ``kafka://HOST:PORT``; topics are shared, so a test names its own."""
    return os.environ.get("DOVETAIL_TEST_KAFKA") or running_server("kafka").url


@pytest.fixture(scope="session")
def redis_url(running_server: Callable[[str], Server]) -> str:
    """A Redis server, ``redis://HOST:PORT/0``; keys are shared, so a test has a prefix of its own."""
    return os.environ.get("DOVETAIL_TEST_REDIS") or running_server("redis").url


@pytest.fixture(scope="session")
def postgresql_url(running_server: Callable[[str], Server]) -> str:
    """A PostgreSQL database for SQLAlchemy; a test makes a schema of its own."""
    return os.environ.get("DOVETAIL_TEST_POSTGRESQL") or running_server("postgresql").url


@pytest.fixture
def kafka_server(running_server: Callable[[str], Server]) -> Iterator[Kafka]:
    """The broker as one that may be killed, paused and started again; runs again after the test."""
    server = running_server("kafka")
    assert isinstance(server, Kafka)
    yield from _lent(server)


@pytest.fixture
def redis_server(running_server: Callable[[str], Server]) -> Iterator[Redis]:
    """Redis as one that may be killed, paused and started again; runs again after the test."""
    server = running_server("redis")
    assert isinstance(server, Redis)
    yield from _lent(server)


@pytest.fixture
def postgresql_server(running_server: Callable[[str], Server]) -> Iterator[PostgreSQL]:
    """PostgreSQL as one that may be killed, paused and started again; runs again after the test."""
    server = running_server("postgresql")
    assert isinstance(server, PostgreSQL)
    yield from _lent(server)


def _lent(server: S) -> Iterator[S]:
    server.start()
    yield server
    server.resume()
    server.start()
