"""Label stores for the conformance suite: SQLite in a file, and real Redis and PostgreSQL servers where there are any.

A server is taken from ``DOVETAIL_TEST_REDIS`` or ``DOVETAIL_TEST_POSTGRESQL`` (a URL), or started here from a
``redis-server`` or ``pg_ctl`` that is installed, for this test session alone.
"""

from __future__ import annotations

import getpass
import importlib.util
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import LabelStore

#: Makes an empty store.
Factory = Callable[[], LabelStore]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("DOVETAIL_TEST_REDIS"):
        yield url
        return
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server is installed and DOVETAIL_TEST_REDIS is not set")
    path = tmp_path_factory.mktemp("redis") / "redis.sock"
    command = [binary, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not any("eady to accept connections" in line for line in server.stdout):
                pytest.fail("redis-server ended before it was ready")
            # Its log must be read on: a full pipe would stop the server.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield f"unix://{path}"
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed; it comes with `pip install dovetail[postgresql]`")
    if url := os.environ.get("DOVETAIL_TEST_POSTGRESQL"):
        yield url
        return
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    binary = shutil.which("pg_ctl") or (str(programs[-1]) if programs else None)
    if binary is None:
        pytest.skip("no PostgreSQL server is installed and DOVETAIL_TEST_POSTGRESQL is not set")
    with ExitStack() as stack:
        # Not below pytest's own folder, which is closed to other users.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dovetail-postgresql-")))
        user = getpass.getuser()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = "postgres"
            if user not in {entry.pw_name for entry in pwd.getpwall()}:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def control(*arguments: str) -> None:
            command = [binary, "-D", str(folder / "data"), "-l", str(folder / "log"), "-s", "-w", *arguments]
            subprocess.run(command, check=True, user=user if os.geteuid() == 0 else None, stdout=subprocess.DEVNULL)

        control("init", "-o", f"--auth=trust --username={user}")
        control("start", "-o", f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off")
        try:
            yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres"
        finally:
            control("stop", "-m", "fast")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.services),
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
        if request.param == "redis":
            return str(request.getfixturevalue("redis_url"))
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
