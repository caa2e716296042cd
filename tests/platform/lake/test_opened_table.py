"""A table of Iceberg or Delta has the rows of its current version, whatever its files hold, with the columns of now."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import ConfigError, StoreError, WireError
from dovetail.platform.lake.opened_table import lake_table
from tests.platform.lake.lakes import LAKES, delta_table, iceberg_table

DAY = 86_400_000_000
ROWS = pa.table(
    {
        "user_id": [f"u{n % 7}" for n in range(200)],
        "price": pa.array([None if n % 9 == 0 else n for n in range(200)], pa.int64()),
        "tags": [[str(n), None] for n in range(200)],
        "at": pa.array([n * DAY // 20 for n in range(200)], pa.timestamp("us", "UTC")),
    }
)
PLAIN = ROWS.set_column(3, "at", ROWS.column("at").cast(pa.timestamp("us")))


@pytest.fixture(scope="module", params=list(LAKES))
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return LAKES[request.param](tmp_path_factory.mktemp(request.param), ROWS)


def all_of(log: DayFiles, *bounds: int) -> pa.Table:
    low, high = bounds or (0, 100 * DAY)
    return pa.concat_tables(log.read(PLAIN.column_names, low, high)).sort_by("at")


def test_the_rows_are_those_of_the_current_version(where: str) -> None:
    log = DayFiles.at(where, "at")
    assert all_of(log).equals(PLAIN)
    assert log.days() == {f"1970-01-{day:02d}": 20 for day in range(1, 11)}
    assert all_of(log, 2 * DAY, 3 * DAY).equals(PLAIN.slice(40, 21))
    table = lake_table(where)
    assert table is not None
    assert table.read(["price", "at"]).sort_by("at").equals(PLAIN.select(["price", "at"]))


def test_it_is_sent_to_other_processes_as_it_was_and_cut_by_files(where: str) -> None:
    log = pickle.loads(pickle.dumps(DayFiles.at(where, "at").portable()))
    parts = [all_of(part) for part in log.parts(None, 100 * DAY, 10)]
    assert len(parts) == 2
    assert pa.concat_tables(parts).sort_by("at").equals(PLAIN)
    assert log.identity(None, DAY) == DayFiles.at(where, "at").identity(None, DAY)


def test_a_column_that_is_not_there_is_named(where: str) -> None:
    with pytest.raises(WireError, match="no column 'moment'; it has "):
        DayFiles.at(where, "moment")
    table = lake_table(where)
    assert table is not None
    with pytest.raises(WireError, match="no column 'cost'; it has "):
        table.read(["cost"])


def test_new_rows_are_another_version_and_leave_old_files_as_they_were(tmp_path: Path) -> None:
    where = delta_table(tmp_path, ROWS)
    from deltalake import write_deltalake

    before = DayFiles.at(where, "at")
    more = ROWS.slice(0, 5).append_column("half", pa.array(["d"] * 5))
    late = more.set_column(3, "at", pa.array([50 * DAY] * 5, pa.timestamp("us", "UTC")))
    write_deltalake(where, late, mode="append")
    after = DayFiles.at(where, "at")
    assert all_of(before).num_rows == 200
    assert all_of(after).num_rows == 205
    assert before.identity(0, 20 * DAY) == after.identity(0, 20 * DAY)


@pytest.mark.parametrize("form", LAKES)
def test_a_file_that_is_gone_is_an_error(form: str, tmp_path: Path) -> None:
    log = DayFiles.at(LAKES[form](tmp_path, ROWS), "at")
    Path(log.paths(None, 100 * DAY)[0].removeprefix("file://")).unlink()
    with pytest.raises(StoreError, match=r"\.parquet: "):
        all_of(log)


def test_an_iceberg_table_says_which_version_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Path(iceberg_table(tmp_path, ROWS))
    with pytest.raises(
        ConfigError, match=r"its catalog knows which version .*: write iceberg://CATALOG/NAMESPACE\.TABLE"
    ):
        DayFiles.at(metadata.parent.parent, "at")
    (metadata.parent / "version-hint.text").write_text(metadata.name, encoding="utf-8")
    assert all_of(DayFiles.at(metadata.parent.parent, "at")).equals(PLAIN)
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path / 'catalog.db'}")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    import pyiceberg.catalog as catalogs
    from pyiceberg.utils.config import Config

    monkeypatch.setattr(catalogs, "_ENV_CONFIG", Config())
    assert all_of(DayFiles.at("iceberg://lake/shop.rows", "at")).equals(PLAIN)
    for wrong in ("iceberg://lake/rows", "iceberg://lake/shop.row", "iceberg://nowhere/shop.rows", "no.metadata.json"):
        with pytest.raises(ConfigError, match=r"iceberg|Iceberg"):
            DayFiles.at(wrong, "at")


def test_a_delta_table_beyond_the_library_is_refused(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    settings = {"delta.enableDeletionVectors": "true"}
    write_deltalake(tmp_path / "rows", ROWS, configuration=settings)
    with pytest.raises(ConfigError, match=r"deletionVectors.* Write a copy of the table without it"):
        DayFiles.at(tmp_path / "rows", "at")


def test_what_is_no_table_is_none(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    pq.write_table(PLAIN, tmp_path / "metadata" / "rows.parquet")
    assert lake_table(str(tmp_path)) is None
    assert all_of(DayFiles.at(tmp_path, "at")).equals(PLAIN)


def test_a_table_without_its_library_names_the_extra(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] in ("pyiceberg", "deltalake")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(
        ConfigError, match=r"needs (pyiceberg|deltalake).*, which is not installed: pip install .*\[lake\]"
    ):
        lake_table(where)
