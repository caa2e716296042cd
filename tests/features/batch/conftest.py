"""A project of one stream with every kind of window and aggregate, and a plain-Python account of its meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.features import Project, load

TOML = """
[streams.events]
key = "user_id"
[tables.items]
path = "items.parquet"
[batch_views.profile]
every = "1h"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
[request]
feature_set = "ranking"
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
SCHEMAS = f"""
CREATE TABLE events (user_id BIGINT, item_id BIGINT, kind VARCHAR, price DECIMAL(9,2), n BIGINT, x DOUBLE,
                     event_time TIMESTAMP NOT NULL);
CREATE TABLE items (item_id BIGINT, category VARCHAR, available_at TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
"""
#: Seconds instead of hours, so that small examples reach every edge; 2000-01-03 is where time_bucket counts from.
ACTS = """
SELECT e.user_id, e.item_id,
       count(*)                                       OVER near AS n,
       count(e.price) FILTER (WHERE e.kind = 'a')     OVER near AS priced,
       sum(e.price)                                   OVER far  AS spent,
       avg(n)                                         OVER far  AS mean,
       avg(price) FILTER (WHERE kind <> 'b')          OVER near AS mean_price,
       min(x)                                         OVER far  AS low,
       max(x) FILTER (WHERE x > 0)                    OVER near AS high,
       sum(n)   OVER (PARTITION BY user_id, item_id ORDER BY event_time
                      RANGE BETWEEN hop(event_time, INTERVAL 7 SECOND, INTERVAL 2 SECOND) PRECEDING AND CURRENT ROW)
           AS total
FROM events AS e
WHERE kind IS DISTINCT FROM 'z'
WINDOW near AS (PARTITION BY user_id, item_id ORDER BY event_time
                RANGE BETWEEN INTERVAL 3 SECOND PRECEDING AND CURRENT ROW),
       far  AS (PARTITION BY user_id, item_id ORDER BY event_time
                RANGE BETWEEN hop(event_time, INTERVAL 10 SECOND, INTERVAL 4 SECOND) PRECEDING AND CURRENT ROW);
"""
USERS = """
SELECT user_id, count(*) OVER w AS n, max(event_time) OVER w AS latest
FROM events
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 5 SECOND PRECEDING AND CURRENT ROW)
"""
PROFILE = "SELECT item_id, max(category) AS category, count(*) AS versions FROM items GROUP BY item_id"
RANKING = """
SELECT request_id, item_id, second(request_time) AS s, acts.n AS pair_n, users.n / nullif(acts.n, 0) AS share,
       log10(users.n) AS magnitude, profile.category || '!' AS loud
FROM request LEFT JOIN acts USING (user_id, item_id) LEFT JOIN users USING (user_id) LEFT JOIN profile USING (item_id)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    for name, text in {
        "schemas": SCHEMAS,
        "acts": ACTS,
        "users": USERS,
        "profile": PROFILE,
        "ranking": RANKING,
    }.items():
        (folder / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")
    return load(folder)


@pytest.fixture
def write_project(tmp_path: Path) -> Callable[[dict[str, str]], Project]:
    def write(files: dict[str, str]) -> Project:
        (tmp_path / "sql").mkdir(exist_ok=True)
        (tmp_path / "dovetail.toml").write_text(TOML, encoding="utf-8")
        ranking = "SELECT request_id, item_id FROM request"
        batch = "SELECT item_id, category FROM items"
        for name, text in {"schemas": SCHEMAS, "ranking": ranking, "profile": batch, **files}.items():
            (tmp_path / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")
        return load(tmp_path)

    return write
