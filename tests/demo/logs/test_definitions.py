"""The shipped sql/ and dovetail.toml: they fit the logs, run in plain DuckDB, and fit each other."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlglot
from sqlglot import exp

from dovetail.demo.logs.recorded import (
    ARRIVAL,
    BEHAVIOUR_SCHEMA,
    ITEM_SCHEMA,
    LABEL_KINDS,
    LABEL_SCHEMA,
    REQUEST_SCHEMA,
    RecordedLog,
)
from dovetail.demo.logs.simulator import SimulatorConfig
from dovetail.features import Project, load
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table

HOP = "CREATE MACRO hop(ts, size, step) AS ts - time_bucket(step, ts - size)"


@pytest.fixture(scope="module")
def project(project_root: Path) -> Project:
    return load(project_root)


@pytest.fixture(scope="module")
def config(project_root: Path) -> Config:
    return load_config(project_root)


@pytest.fixture(scope="module")
def selects(project_root: Path) -> dict[str, str]:
    """Every definition that is a SELECT, by name."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted((project_root / "sql").glob("*.sql"))}
    return {
        name: text for name, text in texts.items() if isinstance(sqlglot.parse_one(text, dialect="duckdb"), exp.Query)
    }


@pytest.fixture(scope="module")
def tables(project_root: Path) -> dict[str, TableSchema]:
    """Every declared table, by name."""
    declared = {}
    for file in sorted((project_root / "sql").glob("*.sql")):
        for statement in parse_statements(file, file.read_text(encoding="utf-8")):
            if isinstance(statement, exp.Create):
                declared[statement.this.this.name] = parse_table(statement, file)
    return declared


def test_logs_have_the_declared_columns(tables: dict[str, TableSchema]) -> None:
    arriving = {"behaviour": BEHAVIOUR_SCHEMA, "request": REQUEST_SCHEMA} | dict.fromkeys(LABEL_KINDS, LABEL_SCHEMA)
    for name, schema in arriving.items():
        assert tables[name].arrow.equals(schema.remove(schema.get_field_index(ARRIVAL))), name
    assert tables["item"].arrow.equals(ITEM_SCHEMA)
    assert set(tables) == {*arriving, "item"}


def test_config_declares_what_sql_defines(
    project: Project, config: Config, selects: dict[str, str], tables: dict[str, TableSchema]
) -> None:
    assert {*config.streams, *config.tables, *config.labels.streams, "request"} == set(tables)
    assert set(config.batch_views) == set(project.batch_views)
    assert config.request.feature_set in project.feature_sets
    assert {*project.stream_views, *project.batch_views, *project.feature_sets} == set(selects)
    for name, stream in config.streams.items():
        assert {stream.key, stream.event_time} <= set(tables[name].arrow.names)


def test_simulator_is_late_by_what_the_config_allows(config: Config) -> None:
    assert config.streams["behaviour"].allowed_lateness == SimulatorConfig().allowed_lateness_us
    assert config.labels.window == SimulatorConfig().label_window_us


def test_no_expression_mixes_streaming_and_batch_views(project: Project, selects: dict[str, str]) -> None:
    for name in project.feature_sets:
        query = sqlglot.parse_one(selects[name], dialect="duckdb")
        assert isinstance(query, exp.Query)
        for column in query.selects:
            views = {part.table for part in column.find_all(exp.Column)} - {""}
            assert not (views & set(project.stream_views) and views & set(project.batch_views)), column.alias_or_name


def test_every_definition_runs_in_duckdb(
    project: Project, config: Config, selects: dict[str, str], log: RecordedLog
) -> None:
    requests = log.requests.slice(0, 200)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(HOP)
        connection.register("behaviour", log.events.slice(0, 3_000))
        connection.register("item", log.items)
        for name in (*project.stream_views, *project.batch_views):
            rows = _run(connection, selects[name])
            assert rows.num_rows > 0, name
            connection.register(name, _one_per_key(rows))
        connection.register("nested", requests)
        connection.execute(
            "CREATE VIEW request AS SELECT * EXCLUDE (candidates, candidate), unnest(candidate) "
            "FROM (SELECT *, unnest(candidates) AS candidate FROM nested)"
        )
        ranked = _run(connection, selects[config.request.feature_set])
    assert ranked.num_rows == pc.sum(pc.list_value_length(requests["candidates"])).as_py()
    assert config.model is not None
    features = set(ranked.column_names) - {"request_id", "item_id"}
    assert features == {given.column for given in config.model.inputs}, "every feature is used, every input exists"


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    result: pa.Table = connection.sql(sql).to_arrow_table()
    return result


def _one_per_key(table: pa.Table) -> pa.Table:
    """One row of each entity (the first column), which is what a feature set joins."""
    numbered = table.append_column("row", pa.array(range(table.num_rows)))
    return table.take(numbered.group_by(table.column_names[0]).aggregate([("row", "max")])["row_max"])
