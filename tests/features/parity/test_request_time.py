"""Request-time expressions over what the views give: strings, lists, maps, hashing, bucketing, distance."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from dovetail.features import Project, load
from tests.features.parity.replay import bits

TOML = """
[streams.events]
key = "user_id"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
[request]
feature_set = "ranking"
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
SCHEMAS = f"""
CREATE TABLE events (user_id BIGINT, item_id BIGINT, category VARCHAR, lat DOUBLE, lon DOUBLE,
                     event_time TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL, query VARCHAR,
                      lat DOUBLE, lon DOUBLE, candidates STRUCT(item_id BIGINT, category VARCHAR)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
"""
ACTIVITY = """
SELECT user_id,
       last_distinct(list(item_id) OVER w, 5)      AS last_items,
       histogram(category) OVER w                  AS categories,
       last(category) OVER w                       AS last_category,
       arg_max(lat, event_time) OVER w             AS lat,
       arg_max(lon, event_time) OVER w             AS lon,
       count(*) OVER w                             AS events
FROM (SELECT * FROM events WHERE category <> 'bot') AS e
WINDOW w AS (PARTITION BY user_id ORDER BY event_time
             RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW)
"""
RANKING = """
SELECT request_id, item_id,
       lower(trim(query)) || '/' || category                                       AS crossed,
       regexp_matches(query, '[0-9]+')                                             AS has_digits,
       array_length(string_split(query, ' '))                                      AS words,
       coalesce(list_contains(activity.last_items, item_id), false)                AS seen,
       list_position(activity.last_items, item_id)                                 AS seen_at,
       coalesce(len(activity.last_items), 0)                                       AS variety,
       coalesce(CAST(activity.categories[category] AS BIGINT), 0)                  AS in_category,
       coalesce(CAST(activity.categories[category] AS BIGINT), 0) / nullif(activity.events, 0) AS share,
       CAST(hash(query, item_id) % 1024 AS BIGINT)                                 AS bucket,
       least(activity.events // 10, 10)                                             AS band,
       2 * 6371 * asin(sqrt(pow(sin(radians(request.lat - activity.lat) / 2), 2)
           + cos(radians(activity.lat)) * cos(radians(request.lat))
             * pow(sin(radians(request.lon - activity.lon) / 2), 2)))              AS kilometres,
       activity.last_category = category                                           AS same_category
FROM request LEFT JOIN activity USING (user_id)
"""
NOON = dt.datetime(2024, 2, 29, 12)  # noqa: DTZ001


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("request_time")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    texts = {"schemas": SCHEMAS, "activity": ACTIVITY, "ranking": RANKING}
    for name, text in texts.items():
        (folder / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")
    return load(folder)


def events(project: Project) -> pa.Table:
    rows = [
        {
            "user_id": n % 3,
            "item_id": n % 7,
            "category": ("shoes", "hats", "bot")[n % 3 if n % 5 else 2],
            "lat": 50.0 + n / 10,
            "lon": 8.0 - n / 10,
            "event_time": NOON + dt.timedelta(minutes=n - 60),
        }
        for n in range(60)
    ]
    return pa.Table.from_pylist(rows, schema=project.streams["events"].schema.arrow)


def requests(project: Project) -> pa.Table:
    rows = [
        {
            "request_id": f"r{n}",
            "user_id": n,
            "request_time": NOON,
            "query": (" Red SHOES 42", "hat", None, "")[n],
            "lat": 52.5,
            "lon": 13.4,
            "candidates": [{"item_id": item, "category": ("shoes", "hats")[item % 2]} for item in range(4)],
        }
        for n in range(4)
    ]
    return pa.Table.from_pylist(rows, schema=project.request.arrow)


def test_both_engines_compute_them_alike(project: Project) -> None:
    given = {"events": events(project)}
    batch = project.evaluate(None, requests(project), given)
    stream = project.evaluate(None, requests(project), given, engine="stream")
    assert batch.schema == stream.schema
    for name in batch.column_names:
        assert bits(batch.column(name)) == bits(stream.column(name)), name
    first = batch.to_pylist()[0]
    assert (first["crossed"], first["words"], first["seen"], first["variety"]) == ("red shoes 42/shoes", 4, True, 5)
    assert 0 <= first["bucket"] < 1024
    assert 0 < first["kilometres"] < 1_000
    assert batch.column("in_category").to_pylist()[12:] == [0] * 4  # a user without events


def test_check_says_which_lane_each_takes(project: Project) -> None:
    (described,) = [d for d in project.describe() if d.kind == "feature set"]
    lanes = {column["name"]: column["lane"] for column in described.details["columns"]}
    assert lanes["same_category"] == lanes["request_id"] == "compiled"
    assert lanes["kilometres"] == lanes["seen"] == lanes["bucket"] == "duckdb"
    (activity,) = [d for d in project.describe() if d.kind == "streaming"]
    assert {kept["of"] for kept in activity.details["collections"]} == {"item_id", "category", "lat", "lon"}
