"""The SQL that is printed with a mismatch gives, in plain DuckDB over the archive, the value it is said to give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dovetail.app.jobs import archived_events, served_rows
from dovetail.app.storage import load_table
from dovetail.cli.main import app
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.batch.streaming import Visibility
from dovetail.features.stored.consistency import equal_bits
from dovetail.platform.archive.writer import read_dataset
from tests.features.stored.stored_world import World
from tests.generated import some

#: Every finisher, a derived value, ROWS, ties, cleaning with a column made anew, UNION ALL, several views in a feature.
FILES = {
    "users": """
SELECT user_id,
       count(*) FILTER (WHERE kind = 'click') OVER day          AS clicks,
       sum(price) OVER day                                      AS spent,
       avg(price) OVER day                                      AS mean,
       stddev(price) OVER day                                   AS spread,
       var_pop(CAST(price AS INTEGER)) OVER five                AS variance,
       avg(price) OVER five                                     AS mean_of_five,
       entropy(kind) OVER day AS mixed, round(kurtosis(price) OVER five, 9) AS tails,
       min(CAST(price AS DOUBLE)) OVER day                      AS least,
       arg_max(CAST(-price AS DOUBLE), event_time, 2) OVER day  AS doubles,
       arg_max({'k': kind, 'd': CAST(-price AS DOUBLE)}, event_time, 2) OVER day AS structs,
       last_distinct(list(kind) OVER day, 2)                    AS kinds,
       histogram(kind) OVER day                                 AS counts,
       sum_by(list({'k': kind, 'v': price}) OVER day)           AS spent_by,
       avg_by(list({'k': kind, 'v': price}) OVER day)           AS mean_by,
       count(*) OVER day / nullif(count(kind) OVER day, 0)      AS ratio,
       last(kind) OVER three                                    AS last_kind
FROM events
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       three AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW),
       five AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)
""",
    "cleaned": """
SELECT user_id, max(upper_kind) OVER ever AS greatest, count(*) OVER ever AS seen
FROM (SELECT user_id, upper(kind) AS upper_kind, event_time FROM events WHERE price % 2 = 0) AS e
WINDOW ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
""",
    "united": """
SELECT user_id, last(kind) OVER ever AS last_of_both, count(*) OVER day AS both, avg(price) OVER day AS mean_of_both,
       count(*) OVER day / nullif(count(kind) OVER day, 0) AS ratio_of_both
FROM (SELECT user_id, kind, price, event_time FROM events WHERE kind IS NOT NULL
      UNION ALL SELECT user_id, 'second', -price, event_time FROM events) AS e
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
""",
    "ranking": """
SELECT request_id, item_id, hour(request_time) AS hour, users.clicks, users.spent, users.mean, users.spread,
       users.mixed, users.tails,
       users.variance, users.mean_of_five, users.least, users.doubles, users.structs, users.kinds, users.counts,
       users.spent_by, users.mean_by, users.ratio, users.last_kind, cleaned.greatest,
       cleaned.seen * 100 + users.clicks AS both_views, users.counts['click'] / users.clicks AS per_click,
       united.last_of_both, united.both - users.clicks AS three_views, united.mean_of_both, united.ratio_of_both
FROM request LEFT JOIN users USING (user_id) LEFT JOIN cleaned USING (user_id)
             LEFT JOIN united USING (user_id)
""",
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("by_hand") / "shop")
    for name, text in FILES.items():
        world.write(name, text)
    world.load()
    world.live(20)
    yield world
    world.stores.close()


def by_hand(script: str) -> pa.ChunkedArray:
    """What the DuckDB shell prints last."""
    with duckdb.connect() as connection:
        return connection.sql(script).to_arrow_table().column(0)


def recomputed(world: World, rows: pa.Table, visibility: Visibility) -> pa.Table:
    stores, config = world.stores, world.project.config
    log = {"events": read_dataset(stores.registry, stores.offline, "events")}
    return evaluate_feature_set(
        world.project, world.project.feature_set, rows, log, partial(load_table, config), visibility=visibility
    )


@pytest.mark.parametrize("visibility", ["as_served", "event_time"])
def test_every_feature_of_a_request_is_reproduced(asked: World, visibility: Visibility) -> None:
    snapshots = read_dataset(asked.stores.registry, asked.stores.offline, "snapshots")
    rows = served_rows(asked.project.feature_set, snapshots)
    expected = recomputed(asked, rows, visibility)
    other = recomputed(asked, rows, "event_time" if visibility == "as_served" else "as_served")
    # Where the two differ there was a late event; also a user without events.
    late = [n for n in range(rows.num_rows) if expected.column("spent")[n] != other.column("spent")[n]]
    assert late
    nobody = next(n for n, user in enumerate(rows.column("user_id").to_pylist()) if user == "nobody")
    events = archived_events(asked.project, asked.stores)
    columns = asked.project.feature_set.columns_of("request", "streaming")
    if visibility == "event_time":
        columns = columns[::3]
    for row, wanted in ((late[0], some(columns)), (nobody, some(columns[::4]))):
        for column in wanted:
            script = reproduce(asked.project, column, rows.slice(row, 1), events, visibility)
            found = by_hand(script).cast(column.type)
            assert equal_bits(found, expected.column(column.name).slice(row, 1)).all(), (column.name, script)


def test_the_command_prints_sql_that_gives_the_recomputed_value(asked: World) -> None:
    """A snapshot is falsified; what is printed beside each wrong value computes the right one."""
    path = Path(asked.stores.offline.path(asked.stores.registry.files("snapshots")[0].path))
    before, rows = path.read_bytes(), pq.read_table(path)
    for name, wrong in (("mean", 0.125), ("_shared.kinds", ["none"]), ("both_views", -1)):
        at = rows.schema.get_field_index(name)
        values = [wrong, *rows.column(name).to_pylist()[1:]]
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    pq.write_table(rows, path)
    try:
        result = CliRunner().invoke(app, ["consistency", "--project", str(asked.folder), "--json"])
    finally:
        path.write_bytes(before)
    assert result.exit_code == 1
    found = {f["feature"]: f for f in json.loads(result.stdout)["features"]}
    assert {name for name, f in found.items() if f["mismatched"]} == {"mean", "kinds", "both_views"}
    for name in ("mean", "kinds", "both_views"):
        example = found[name]["examples"][0]  # of a list, all candidates of the request have the wrong one
        assert example["served"] != example["recomputed"] == repr(by_hand(example["sql"])[0].as_py())


def test_a_view_whose_events_are_not_archived_has_none(asked: World) -> None:
    column = next(c for c in asked.project.feature_set.columns if c.name == "ratio")
    snapshots = read_dataset(asked.stores.registry, asked.stores.offline, "snapshots")
    long_ago = pa.array([0], pa.timestamp("us"))
    row = served_rows(asked.project.feature_set, snapshots).slice(0, 1)
    row = row.set_column(row.column_names.index("request_time"), "request_time", long_ago)
    script = reproduce(asked.project, column, row, archived_events(asked.project, asked.stores), "event_time")
    assert by_hand(script).to_pylist() == [None]
