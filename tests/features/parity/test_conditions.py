"""The newest row under a condition that the request sets: a list of the newest rows, searched for each candidate."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features import Project, load
from tests.features.parity.replay import bits
from tests.generated import tries

TOML = """
[streams.offers]
key = "user_id"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
[request]
feature_set = "ranking"
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
TABLES = f"""
CREATE TABLE offers (user_id BIGINT, item BIGINT, price DECIMAL(9,2), event_time TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      budget DECIMAL(9,2), candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
"""
NEWEST = """
SELECT user_id, arg_max({'item': item, 'price': price}, event_time, 1000) OVER w AS rows FROM offers
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 MINUTE PRECEDING AND CURRENT ROW)
"""
RANKING = """
SELECT request_id, item_id,
       list_filter(newest.rows, lambda r: r.price <= request.budget)[1].item AS affordable,
       list_filter(newest.rows, lambda r: r.item = request.item_id)[1].price AS its_price,
       coalesce(len(list_filter(newest.rows,
                                lambda r: r.item = request.item_id AND r.price > request.budget)), 0) AS dear,
       list_entropy(list_transform(newest.rows, lambda r: r.item)) AS entropy,
       list_skewness(list_transform(newest.rows, lambda r: CAST(r.price AS DOUBLE))) AS skewness,
       list_kurtosis(list_transform(newest.rows, lambda r: CAST(r.price AS DOUBLE))) AS kurtosis,
       list_avg(list_transform(newest.rows, lambda r: r.price)) AS average
FROM request LEFT JOIN newest USING (user_id)
"""
START = dt.datetime.fromisoformat("2024-01-01")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder: Path = tmp_path_factory.mktemp("conditions")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML)
    for name, text in (("tables", TABLES), ("newest", NEWEST), ("ranking", RANKING)):
        (folder / "sql" / f"{name}.sql").write_text(text)
    return load(folder)


@st.composite
def offers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Offers in order of arrival; a user has no two at one time."""
    prices = st.none() | st.sampled_from([Decimal("0.50"), Decimal("1.00"), Decimal("9.99")])
    made = draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, 120), st.none() | st.integers(0, 2), prices),
            max_size=20,
            unique_by=lambda one: one[:2],
        )
    )
    rows = [
        {"user_id": user, "item": item, "price": price, "event_time": START + dt.timedelta(seconds=second)}
        for user, second, item, price in made
    ]
    return rows if draw(st.booleans()) else sorted(rows, key=lambda row: row["event_time"])


def expected(rows: list[dict[str, Any]], user: int, at: dt.datetime, budget: Decimal | None, item: int) -> list[Any]:
    """The features by the definition's words, row by row."""
    begin = at - dt.timedelta(minutes=1)
    mine = [row for row in rows if row["user_id"] == user and begin <= row["event_time"] <= at]
    mine.sort(key=lambda row: row["event_time"], reverse=True)
    known = [row for row in mine if row["price"] is not None and budget is not None]
    affordable = next((row["item"] for row in known if row["price"] <= budget), None)
    its_price = next((row["price"] for row in mine if row["item"] == item), None)
    return [affordable, its_price, sum(row["item"] == item and row["price"] > budget for row in known)]


@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=offers(),
    user=st.integers(0, 2),
    second=st.integers(0, 200),
    budget=st.none() | st.sampled_from([Decimal("0.50"), Decimal("5.00")]),
)
def test_the_newest_row_that_fits_is_found_in_both_engines(
    project: Project, rows: list[dict[str, Any]], user: int, second: int, budget: Decimal | None
) -> None:
    at = START + dt.timedelta(seconds=second)
    schema = project.streams["offers"].schema.arrow
    events = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in schema]))
    asked = {"request_id": "r", "user_id": user, "request_time": at, "budget": budget}
    request = pa.Table.from_pylist(
        [asked | {"candidates": [{"item_id": item} for item in range(3)]}], schema=project.request.arrow
    )
    batch = project.evaluate(None, request, {"offers": events}, engine="batch")
    stream = project.evaluate(None, request, {"offers": events}, engine="stream")
    names = ["affordable", "its_price", "dear"]
    told = [[row[name] for name in names] for row in batch.to_pylist()]
    assert told == [expected(rows, user, at, budget, item) for item in range(3)]
    assert all(bits(stream.column(name)) == bits(batch.column(name)) for name in batch.column_names)
