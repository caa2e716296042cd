"""A DuckDB connection reaches nothing outside, is in UTC wherever it runs, and keeps to what it is granted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from dovetail.features.duck.connection import connect, shared_cursor
from dovetail.platform.duck.hermetic import Resources, hermetic_connection, resources
from dovetail.platform.duck.over_files import query_batches
from tests.places import ROOT

Opened = Callable[[], duckdb.DuckDBPyConnection]
OPENED: list[Opened] = [hermetic_connection, connect, shared_cursor, lambda: shared_cursor().cursor()]


@pytest.mark.parametrize("opened", OPENED)
def test_it_reaches_no_file_and_keeps_its_settings(opened: Opened, tmp_path: Path) -> None:
    connection = opened()
    (tmp_path / "secret.csv").write_text("word\nswordfish\n")
    with pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM '{tmp_path / 'secret.csv'}'")
    with pytest.raises(duckdb.InvalidInputException, match="locked"):
        connection.execute("SET enable_external_access = true")


def test_a_query_over_a_users_own_files_keeps_its_settings() -> None:
    settings = "SELECT current_setting('lock_configuration') AS locked"
    with query_batches(settings, 10) as batches:
        assert batches.read_all().column("locked").to_pylist() == [True]


def test_it_is_in_utc_whatever_the_machine_is_in() -> None:
    script = """
from dovetail.features.duck.connection import connect, shared_cursor
from dovetail.platform.duck.hermetic import hermetic_connection
for connection in (hermetic_connection(), hermetic_connection().cursor(), connect(), shared_cursor()):
    print(connection.execute("SELECT to_timestamp(0)::VARCHAR").fetchall()[0][0])
"""
    environment = {**os.environ, "TZ": "Asia/Kolkata"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n") == ["1970-01-01 00:00:00+00"] * 4 + [""]


def test_it_has_the_memory_threads_and_folder_that_are_granted(tmp_path: Path) -> None:
    script: list[str] = []
    with resources(Resources(threads=3, memory_bytes=256 << 20, spill=tmp_path / "spill", script=script)):
        connection = hermetic_connection()
    names = ("threads", "memory_limit", "temp_directory")
    asked = ", ".join(f"current_setting('{name}')" for name in names)
    expected = (3, "256.0 MiB", str(tmp_path / "spill"))
    assert connection.execute(f"SELECT {asked}").fetchall() == [expected]
    assert len(script) == 1


def test_what_does_not_fit_in_memory_goes_to_the_folder_and_leaves_with_the_connection(tmp_path: Path) -> None:
    with resources(Resources(threads=1, memory_bytes=100 << 20, spill=tmp_path / "spill")):
        connection = hermetic_connection()
    connection.execute("CREATE TABLE many AS SELECT hash(range) AS h FROM range(20_000_000)")
    assert list((tmp_path / "spill").iterdir())
    connection.close()
    assert not (tmp_path / "spill").exists()


def test_connections_share_a_database_and_not_what_is_made_in_it() -> None:
    one, other = connect(threads=1), connect(threads=1)
    for connection, number in ((one, 1), (other, 2)):
        connection.register("given", pa.table({"x": [number]}))
        connection.execute("CREATE TEMP TABLE made AS FROM given")
        connection.execute("CREATE TEMP VIEW seen AS SELECT x + 1 AS x FROM made")
    assert [c.execute("FROM seen").fetchall() for c in (one, other)] == [[(2,)], [(3,)]]
    one.close()
    assert other.execute("FROM seen").fetchall() == [(3,)]
    with pytest.raises(duckdb.CatalogException):
        connect(threads=1).execute("FROM made")


def test_a_database_that_failed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an internal error DuckDB invalidates it; here, by a cursor that says so."""

    class Failed:
        def __init__(self) -> None:
            self.answers = True

        def cursor(self) -> Failed:
            return self

        def execute(self, _sql: str) -> Failed:
            if not self.answers:
                raise duckdb.FatalException("the database has been invalidated")
            return self

        def fetchall(self) -> list[tuple[int]]:
            return [(1,)]

    failed = Failed()
    with resources(Resources(threads=1)):
        monkeypatch.setattr(duckdb, "connect", lambda *_, **__: failed)
        assert [id(hermetic_connection()) for _ in range(2)] == [id(failed)] * 2
        monkeypatch.undo()
        failed.answers = False
        assert hermetic_connection().execute("SELECT 2").fetchall() == [(2,)]


#: Statements whose tables, views and macros would be everybody's; those behind a quote are SQL that is shown or stored.
SHARED_MADE = re.compile(r"\.create\(|\.create_view\(|execute\([^)]*CREATE (OR REPLACE )?(TABLE|VIEW|MACRO)", re.DOTALL)


def test_nothing_is_made_in_a_shared_database_that_is_not_temporary() -> None:
    sources = [path for part in ("features", "joiners") for path in (ROOT / part).rglob("*.py")]
    assert [path.name for path in sources if SHARED_MADE.search(path.read_text(encoding="utf-8"))] == []
    assert SHARED_MADE.search('connection.execute(f"CREATE OR REPLACE TABLE x AS FROM y")')


def test_it_does_not_spill_into_the_working_directory() -> None:
    found = hermetic_connection().execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
    assert Path(found).is_absolute()


def test_nothing_else_opens_duckdb_but_for_the_files_that_a_user_names() -> None:
    sources = [path for part in ("platform", "features", "joiners", "trainer") for path in (ROOT / part).rglob("*.py")]
    opening = [path.name for path in sources if "duckdb.connect(" in path.read_text(encoding="utf-8")]
    assert sorted(opening) == ["hermetic.py", "over_files.py"]
