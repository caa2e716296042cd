"""``project.evaluate``: both engines, on the shipped definitions and every log, give the same bits."""

from __future__ import annotations

import re
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from dovetail.demo.logs.find import find_log
from dovetail.demo.logs.recorded import ARRIVAL, RecordedLog
from dovetail.demo.logs.simulator import simulate
from dovetail.features import Project, load
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.batch.views import run_batch_view
from dovetail.features.duck.binding import Binder
from dovetail.features.language.source import Source
from dovetail.features.language.streaming_views import parse_stream_view
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.request import flatten_requests
from dovetail.features.stream.rerun import replay_view, with_positions
from dovetail.platform.errors import ConfigError, WireError
from dovetail.platform.rows.positions import seen_column
from tests.features.parity.replay import bits
from tests.places import ROOT


@pytest.fixture(scope="module")
def project() -> Project:
    return load(ROOT)


def in_time(events: pa.Table) -> pa.Table:
    """Without the events that the simulator sends later than the stream allows: only the batch engine sees those."""
    times = np.asarray(events.column("event_time").cast(pa.int64()).to_numpy())
    return events.filter(pa.array(np.maximum.accumulate(times) - times <= 3_600_000_000))


@pytest.fixture(scope="module", params=["simulator", "obd-40k", "jd-actions-89k"])
def log(request: pytest.FixtureRequest) -> RecordedLog:
    """The simulator and both recorded logs; those are skipped where they are not."""
    if request.param == "simulator":
        return simulate()
    return find_log(request.getfixturevalue("recorded_logs") / request.param)


def equal(one: pa.Table, other: pa.Table) -> None:
    assert one.schema == other.schema
    assert one.num_rows == other.num_rows > 0
    for name in one.column_names:
        left, right = bits(one.column(name)), bits(other.column(name))
        assert left == right, (name, [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]][:3])


#: Beside the shipped views, one with an aggregate of every kind over the same stream.
RICH = """SELECT user_id,
       last(action) OVER day AS last_action,
       arg_max(item_id, event_time, 5) FILTER (WHERE action = 'click') OVER day AS last_clicked,
       last_distinct(list(item_id) OVER day, 3) AS last_items,
       count(DISTINCT item_id) OVER day AS items,
       histogram(action) OVER day AS actions,
       top_k(histogram(action) OVER ever, 2) AS usual,
       sum_by(list({'k': action, 'v': price}) OVER day) AS spent,
       avg_by(list({'k': action, 'v': price}) OVER day) AS mean,
       max(action) OVER hour AS greatest,
       stddev(price) OVER day AS spread,
       avg(price) OVER ten AS recent,
       count(*) FILTER (WHERE action = 'click') OVER day / nullif(count(*) OVER day, 0) AS share
FROM behaviour
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
       ten AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW)"""


@pytest.fixture(scope="module")
def views(project: Project) -> dict[str, StreamView]:
    """Every shipped streaming view and the rich one."""
    source = Source("sql/rich.sql", RICH)
    binder = Binder({name: stream.schema.arrow for name, stream in project.streams.items()})
    return {**project.stream_views, "rich": parse_stream_view("rich", source, project.streams, binder)}


def test_every_shipped_file_is_among_what_is_compared(project: Project) -> None:
    """Every file of ``sql/`` is a schema or a definition of one of three kinds, each of which a test below compares."""
    compared = {*project.stream_views, *project.feature_sets, *project.batch_views}
    schemas = {*project.streams, *project.tables, *project.label_schemas, "request"}
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "sql").glob("*.sql")}
    definitions = {name for name, text in files.items() if "CREATE TABLE" not in text}
    assert definitions == compared
    declared = {name for text in files.values() for name in re.findall(r"CREATE TABLE (\w+)", text)}
    assert declared == schemas
    read = {join.view for features in project.feature_sets.values() for join in features.joins}
    assert {*project.stream_views, *project.batch_views} == read


def test_every_batch_view_of_every_log(project: Project, log: RecordedLog) -> None:
    """As of any version, it is what plain DuckDB makes of the rows that were known by then."""
    given = {"item": log.items}
    for view in project.batch_views.values():
        tables = {table.schema.name: table for table in view.tables}
        known = {
            name: np.asarray(given[name].column(table.available_at).cast(pa.int64()).to_numpy())
            for name, table in tables.items()
        }
        for share in (0.5, 1.0):
            version = max(int(np.quantile(times, share)) for times in known.values())
            with duckdb.connect(config={"threads": 1}) as connection:
                for name, times in known.items():
                    connection.register(name, given[name].filter(pa.array(times <= version)))
                plain = connection.sql(view.sql).to_arrow_table()
            found = run_batch_view(view, version, lambda table: given[table.schema.name])
            by = [(name, "ascending") for name in view.entity]
            equal(found.sort_by(by), plain.select(found.column_names).cast(found.schema).sort_by(by))


def test_every_streaming_view_of_every_log(views: dict[str, StreamView], log: RecordedLog) -> None:
    events = with_positions(in_time(log.events.drop_columns([ARRIVAL]).slice(0, 20_000)))
    probes = flatten_requests(log.requests.drop_columns([ARRIVAL]).slice(0, 400))
    for view in views.values():
        replayed = replay_view(view, events, probes, None)
        assert replayed.answerable.all()
        equal(replayed.values, evaluate_view(view, events, probes).values)


def test_every_feature_set_of_every_log(project: Project, log: RecordedLog) -> None:
    events = {"behaviour": in_time(log.events.drop_columns([ARRIVAL]).slice(0, 20_000))}
    requests = log.requests.drop_columns([ARRIVAL]).slice(0, 200)
    tables = {"item": log.items}
    for name in project.feature_sets:
        batch = project.evaluate(name, requests, events, tables=tables)
        equal(project.evaluate(name, requests, events, engine="stream", tables=tables), batch)


def test_as_served_sees_what_the_positions_say(project: Project) -> None:
    log = simulate()
    events = with_positions(log.events.drop_columns([ARRIVAL]).slice(0, 4_000))
    flat = flatten_requests(log.requests.drop_columns([ARRIVAL]).slice(0, 60))
    for number, name in enumerate(project.stream_views):
        seen = pa.array([[row % 5 * 800 + number] for row in range(flat.num_rows)], pa.list_(pa.int64()))
        flat = flat.append_column(seen_column(name), seen)
    asked: dict[str, Any] = {"events": {"behaviour": events}, "visibility": "as_served", "tables": {"item": log.items}}
    batch = project.evaluate(None, flat, engine="batch", **asked)
    stream = project.evaluate(None, flat, engine="stream", **asked)
    view = project.stream_views["user_activity"]
    answerable = replay_view(view, events, flat, seen_column("user_activity")).answerable
    for name in ("user_clicks_1h", "user_views_log_1d", "hour_of_day"):
        mask = pa.array(answerable)
        assert bits(stream.column(name).filter(mask)) == bits(batch.column(name).filter(mask))


def test_positions_that_are_no_prefix_are_refused(project: Project) -> None:
    log = simulate()
    events = with_positions(log.events.drop_columns([ARRIVAL]).slice(0, 10)).take(pa.array([5, 0, 1]))
    flat = flatten_requests(log.requests.drop_columns([ARRIVAL]).slice(0, 1)).slice(0, 1)
    flat = flat.append_column("seen", pa.array([[3]], pa.list_(pa.int64())))
    with pytest.raises(WireError, match=r"request 0 had seen positions \[3\], which is no prefix of the events"):
        replay_view(project.stream_views["user_activity"], events, flat, "seen")
    nothing = replay_view(project.stream_views["user_activity"], events, flat.slice(0, 0), None)
    assert nothing.values.num_rows == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"feature_set": "rankin"}, "there is no feature set 'rankin'; did you mean ranking"),
        ({"engine": "spark"}, "engine is 'spark'; use 'batch' or 'stream'"),
        ({"events": {}}, "reads stream behaviour; give events"),
        ({"tables": None}, "reads table item; give it in tables="),
    ],
)
def test_what_is_missing_is_said(project: Project, asked: dict[str, Any], message: str) -> None:
    log = simulate()
    given = {
        "feature_set": None,
        "requests": log.requests.slice(0, 2),
        "events": {"behaviour": log.events.slice(0, 9)},
        "tables": {"item": log.items},
    }
    with pytest.raises(ConfigError, match=message):
        project.evaluate(**(given | asked))
