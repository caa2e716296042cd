"""The example of the design page, read as a plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from dovetail.features import Project, load
from dovetail.features.plan.definitions import Input, Window
from dovetail.features.stream.layout import supported
from dovetail.platform.errors import ConfigError
from tests.features.language.conftest import MODEL, RANKING
from tests.places import ROOT

HOUR, DAY = 3_600_000_000, 86_400_000_000
LoadProject = Callable[..., Project]


def test_a_streaming_view_is_read_off_its_window_functions(load_project: LoadProject) -> None:
    view = load_project().stream_views["user_activity"]
    assert (view.stream.name, view.entity, view.entity_types, view.where) == (
        "behaviour",
        ("user_id",),
        (pa.int64(),),
        None,
    )
    assert view.windows == (Window("last_hour", HOUR, None), Window("last_week", 7 * DAY, HOUR))
    assert view.inputs == (
        Input(None, None, pa.int64()),
        Input(None, "action = 'click'", pa.int64()),
        Input("price", None, pa.decimal128(12, 2)),
    )
    assert [(a.output, a.function, a.input, a.window) for a in view.aggregates] == [
        ("impressions_1h", "count", 0, 0),
        ("clicks_1h", "count", 1, 0),
        ("avg_price_7d", "avg", 2, 1),
    ]
    assert view.output_schema == pa.schema(
        {"impressions_1h": pa.int64(), "clicks_1h": pa.int64(), "avg_price_7d": pa.float64()}
    )


def test_a_feature_set_is_read_off_from_request(load_project: LoadProject) -> None:
    features = load_project().feature_set
    assert [(j.view, j.kind, j.entity) for j in features.joins] == [
        ("user_activity", "streaming", ("user_id",)),
        ("item_stats", "streaming", ("item_id",)),
        ("item_profile", "batch", ("item_id",)),
    ]
    assert [(c.name, c.origin, c.lane, str(c.type), c.line) for c in features.columns] == [
        ("request_id", "key", "compiled", "string", 1),
        ("item_id", "key", "compiled", "int64", 1),
        ("hour_of_day", "request", "compiled", "int64", 2),
        ("clicks_1h", "streaming", "compiled", "int64", 3),
        ("item_ctr_1d", "streaming", "compiled", "double", 4),
        ("category", "batch", "compiled", "string", 5),
    ]
    ratio = features.columns[4]
    assert ratio.sql == "item_stats.clicks_1d / nullif(item_stats.impressions_1d, 0)"
    assert ratio.references == (("item_stats", "clicks_1d"), ("item_stats", "impressions_1d"))
    assert features.inputs.names[-1] == "item_profile.category"


def test_a_batch_view_is_everything_else(load_project: LoadProject) -> None:
    view = load_project().batch_views["item_profile"]
    assert (view.entity, view.entity_types, view.every_us) == (("item_id",), (pa.int64(),), 6 * HOUR)
    assert view.output_schema == pa.schema({"category": pa.string()})
    assert [table.schema.name for table in view.tables] == ["items"]


def test_the_authors_text_is_kept_token_by_token(load_project: LoadProject) -> None:
    sql = """SELECT b.user_id, -- the "key", of course
       sum(b.quantity * 2 /* twice */) FILTER (WHERE NOT (b.action IN ('a', ', FROM (')) AND B.Price > 0.5)
           OVER (PARTITION BY b.user_id ORDER BY b.event_time RANGE INTERVAL 90 MINUTE PRECEDING) weight,
       max(price -- highest
           ) OVER w AS "top price"
    FROM behaviour b WHERE b.action IS DISTINCT FROM 'x' AND b.wide IS NOT NULL
    WINDOW w AS (PARTITION BY user_id ORDER BY event_time ASC
                 RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND CURRENT ROW)
    """
    view = load_project({"sql/weights.sql": sql}).stream_views["weights"]
    assert view.where == "action IS DISTINCT FROM 'x' AND wide IS NOT NULL"
    assert view.inputs == (
        Input("quantity * 2 /* twice */", "NOT (action IN ('a', ', FROM (')) AND price > 0.5", pa.int32()),
        Input("price -- highest", None, pa.decimal128(12, 2)),
    )
    assert view.windows == (Window("weight", 90 * 60_000_000, None), Window("w", 2 * HOUR, None))
    assert [a.output for a in view.aggregates] == ["weight", "top price"]
    assert view.aggregates[0].type == pa.decimal128(38, 0)


def test_windows_of_one_size_are_one_window(load_project: LoadProject) -> None:
    over = "PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL {} PRECEDING AND CURRENT ROW"
    sql = f"""SELECT user_id, count(*) OVER ({over.format("24 HOUR")}) AS a,
        count(price) OVER w AS b, count() OVER w AS c
        FROM behaviour WINDOW w AS ({over.format("1 DAY")})"""
    view = load_project({"sql/twice.sql": sql}).stream_views["twice"]
    assert view.windows == (Window("a", DAY, None),)
    assert view.inputs == (Input(None, None, pa.int64()), Input("price", None, pa.decimal128(12, 2)))


def test_windows_may_end_before_the_request(load_project: LoadProject) -> None:
    frames = {
        "RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING": Window("", 7 * DAY, None, end_us=DAY),
        "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING": Window(
            "", HOUR, None, end_us=1
        ),
        "RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW EXCLUDE GROUP": Window("", 2 * HOUR, None, end_us=1),
        "RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW EXCLUDE TIES": Window("", 3 * HOUR, None, end_us=1),
        "RANGE BETWEEN INTERVAL 4 HOUR PRECEDING AND CURRENT ROW EXCLUDE NO OTHERS": Window("", 4 * HOUR, None),
        "RANGE BETWEEN hop(event_time, INTERVAL 7 DAY, INTERVAL 1 HOUR) PRECEDING AND INTERVAL 1 DAY PRECEDING": Window(
            "", 7 * DAY, HOUR, end_us=DAY
        ),
        "RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 1 DAY PRECEDING": Window(
            "", 0, None, unbounded=True, end_us=DAY
        ),
        "ROWS BETWEEN 5 PRECEDING AND 3 PRECEDING": Window("", 0, None, rows=5, skip=2),
        "ROWS BETWEEN 6 PRECEDING AND 1 PRECEDING": Window("", 0, None, rows=6),
    }
    listed = ", ".join(
        f"count(*) OVER (PARTITION BY user_id ORDER BY event_time {frame}) AS n{n}" for n, frame in enumerate(frames)
    )
    sql = f"SELECT user_id, {listed} FROM behaviour"
    project = load_project({"sql/past.sql": sql})
    wanted = tuple(replace(window, name=f"n{n}") for n, window in enumerate(frames.values()))
    assert project.stream_views["past"].windows == wanted
    strict = load_project({"sql/past.sql": sql}, more_toml=f"{MODEL}[features]\nstrictly_before = true\n")
    view = strict.stream_views["past"]
    assert view.strictly_before
    assert view.windows == tuple(
        replace(w, size_us=w.size_us + (1 if w.bounded_us else 0), end_us=w.end_us + 1) for w in wanted
    )
    plain, shown = ({d.name: d.details for d in p.describe()}["past"] for p in (project, strict))
    assert shown["windows"] == plain["windows"]
    assert shown["windows"][5] == {
        "name": "n5", "size_s": 7 * 86_400, "step_s": 3_600, "end_s": 86_400, "rows": None, "skip": 0,
    }  # fmt: skip
    assert (plain["strictly_before"], shown["strictly_before"]) == (False, True)
    # Rows for the longest plain window; partials of whole hours from 7 days to 1 day before, at both ends one more.
    assert (plain["raw_s"], plain["partials"]) == (7 * 86_400 + 3_600, 6 * 24 + 2 + 1 + 1)


def test_columns_of_request_may_be_qualified_aliased_and_nested(load_project: LoadProject) -> None:
    sql = """SELECT r.request_id, request.item_id, ctx.os AS os, r.ctx.app.name AS app, slot + 1 AS next,
        act.clicks_1h > 0 AS active, impressions_1h AS seen
        FROM request r LEFT OUTER JOIN user_activity AS act USING (USER_ID)"""
    loaded = load_project({"sql/other.sql": sql.replace("request.item_id", "r.item_id")})
    features = loaded.feature_sets["other"]
    assert [(c.name, c.resolved, c.lane) for c in features.columns] == [
        ("request_id", "request_id", "compiled"),
        ("item_id", "item_id", "compiled"),
        ("os", "ctx.os", "duckdb"),
        ("app", "ctx.app.name", "duckdb"),
        ("next", "slot + 1", "compiled"),
        ("active", '"user_activity.clicks_1h" > 0', "compiled"),
        ("seen", '"user_activity.impressions_1h"', "compiled"),
    ]


def test_label_schemas_and_streams_are_declared_tables(load_project: LoadProject) -> None:
    project = load_project()
    assert sorted(project.label_schemas) == ["click", "exposure"]
    assert project.streams["behaviour"].topic == "behaviour"
    assert project.tables["items"].available_at == "available_at"
    assert project.request_schema.names == [
        "request_id",
        "user_id",
        "request_time",
        "page",
        "tags",
        "ctx",
        "item_id",
        "slot",
    ]


def test_describe_says_what_is_kept(load_project: LoadProject) -> None:
    found = {d.name: d for d in load_project().describe()}
    assert {name: d.kind for name, d in found.items()} == {
        "item_stats": "streaming",
        "user_activity": "streaming",
        "item_profile": "batch",
        "ranking": "feature set",
    }
    # Rows of the last hour and of the allowed lateness; one partial an hour for a week, at both ends one more.
    details = found["user_activity"].details
    assert (details["raw_s"], details["partials"]) == (7200, 7 * 24 + 2 + 1)
    assert found["item_stats"].details["raw_s"] == 25 * 3600
    assert found["item_profile"].details["every_s"] == 6 * 3600
    assert found["ranking"].details["columns"][2] == {
        "name": "hour_of_day",
        "type": "int64",
        "origin": "request",
        "lane": "compiled",
    }


def test_a_view_that_loads_is_one_the_stream_engine_keeps(load_project: LoadProject) -> None:
    for view in load_project().stream_views.values():
        assert supported(view) == []


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[request]\nfeature_set = "rankin"', "there is no feature set 'rankin'; did you mean ranking"),
        ("[model]\ninputs = [{ column = 'hour_of_dya' }]", "model.inputs.0: 'hour_of_dya' is not an output"),
        (
            "[model]\ninputs = [{ kind = 'cross', columns = ['category', 'hour_of_dya'] }]",
            "model.inputs.0: 'hour_of_dya' is not an output",
        ),
        (
            "[model]\ninputs = [{ column = 'hour_of_day' }]\nevaluation = { slices = ['emission', 'categry'] }",
            "dovetail.toml: model.evaluation.slices: 'categry' is neither an output of feature set ranking nor another",
        ),
    ],
)
def test_names_in_the_config_must_exist(load_project: LoadProject, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_project(more_toml=toml)


@pytest.mark.parametrize(
    ("feature", "declared", "message"),
    [
        ("tags", "kind = 'list', length = 2", None),
        ("map_entries(map {'a': page})", "kind = 'list', length = 2", None),
        ("tags", "kind = 'categorical'", 'declare kind = "list" and its length, or select a number like len(x)'),
        ("map {'a': page}", "kind = 'list', length = 2", "select map_entries(x), a list of names and numbers"),
        ("ctx", "kind = 'categorical'", "which an input of kind 'categorical' cannot read; select its members"),
        ("page", "kind = 'list', length = 2", 'declare it "categorical" or "numeric", or select a list'),
    ],
)
def test_an_input_has_a_column_of_its_kind(
    load_project: LoadProject, feature: str, declared: str, message: str | None
) -> None:
    ranking = RANKING.replace("hour(request_time)", f"{feature} AS x, hour(request_time)")
    toml = f"[model]\ninputs = [{{ column = 'x', {declared} }}]"
    if message is None:
        assert load_project({"sql/ranking.sql": ranking}, more_toml=toml).config.model is not None
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_project({"sql/ranking.sql": ranking}, more_toml=toml)


def test_a_slice_has_values_that_are_names(load_project: LoadProject) -> None:
    ranking = RANKING.replace("hour(request_time)", "tags AS x, hour(request_time)")
    toml = "[model]\ninputs = [{ column = 'hour_of_day' }]\nevaluation = { slices = ['x'] }"
    with pytest.raises(ConfigError, match=r"model.evaluation.slices: 'x' is list<.*>, which has no values to slice by"):
        load_project({"sql/ranking.sql": ranking}, more_toml=toml)


def test_a_project_needs_no_model(load_project: LoadProject) -> None:
    assert load_project(more_toml="").config.model is None


def test_the_repositorys_own_definitions_load() -> None:
    project = load(ROOT)
    assert project.feature_set.name == project.config.request.feature_set
    for view in project.stream_views.values():
        assert supported(view) == []
    # Everything a request waits for is compiled.
    served = project.feature_set.columns_of("key", "request", "streaming")
    assert [column.name for column in served if column.lane != "compiled"] == []
