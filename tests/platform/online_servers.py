"""Online stores for the conformance suite: SQLite in a file; Redis, a Redis Cluster and PostgreSQL where there are any.

A cluster is taken from ``DOVETAIL_TEST_REDIS_CLUSTER`` (a URL), or is three nodes started here, without replicas.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.online_stores import open_online_store

#: Makes a store: an empty one, or with ``again`` a further connection to the one made last.
OnlineFactory = Callable[..., OnlineStore]

_NODES = 3
_numbers = itertools.count()


def free_port(below: int = 55_000) -> int:
    """A port nobody listens on, whose cluster bus port (10,000 higher) exists."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < below:
            return port


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("DOVETAIL_TEST_REDIS_CLUSTER"):
        yield url
        return
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server is installed and DOVETAIL_TEST_REDIS_CLUSTER is not set")
    folder, pause = tmp_path_factory.mktemp("redis-cluster"), threading.Event()
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(binary, folder / str(number))) for number in range(_NODES)]
        bounds = [16_384 * number // _NODES for number in range(_NODES + 1)]
        for number, node in enumerate(nodes):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        ports = [node.connection_pool.connection_kwargs["port"] for node in nodes]
        for port in ports[1:]:
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        whole = ("cluster_state:ok", f"cluster_known_nodes:{_NODES}", f"cluster_size:{_NODES}")
        for node in nodes:
            while not all(line in str(node.execute_command("CLUSTER", "INFO")) for line in whole):
                pause.wait(0.02)
        yield f"redis+cluster://127.0.0.1:{ports[0]}"


@contextmanager
def _node(binary: str, folder: Path) -> Iterator[Any]:
    """A node that knows no other; its client."""
    folder.mkdir()
    port = free_port(below=50_000)
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([*command, "--cluster-enabled", "yes"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not any("eady to accept connections" in line for line in server.stdout):
                pytest.fail("redis-server ended before it was ready")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            with redis.Redis(port=port, decode_responses=True) as client:
                yield client
        finally:
            server.terminate()


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
