"""Selects that clean or unite events, feature sets and batch views outside the language are refused by line."""

from __future__ import annotations

import pytest

from tests.features.language.refusing import LoadProject, W, refused, view

C = "SELECT user_id, count(*) OVER w AS n\nFROM ({})\nWINDOW w AS (" + W + ")"
CLEANED = [
    (C.format("SELECT user_id FROM behaviour"), "2: event_time is not selected; select event_time as it is: it says"),
    (
        C.format("SELECT user_id, event_time + INTERVAL 1 HOUR AS event_time FROM behaviour"),
        "2: event_time is changed; select event_time as it is",
    ),
    (
        C.format("SELECT user_id, max(event_time) AS event_time FROM behaviour GROUP BY 1"),
        "2: GROUP in a SELECT that cleans events; write SELECT expressions FROM the stream WHERE",
    ),
    (
        C.format("SELECT user_id, event_time, (SELECT 1) AS one FROM behaviour"),
        "2: an aggregate or subquery in a SELECT that cleans events; aggregate in the view around it",
    ),
    (
        C.format("SELECT user_id, event_time, unnest(tags) AS tag FROM behaviour"),
        "2: unnest in a SELECT that cleans events; send an event for each: at most a row per event",
    ),
    (
        C.format("SELECT *, CAST(wide AS HUGEINT) AS x FROM behaviour"),
        "2: x is HUGEINT, which is not kept between SELECTs as it is; CAST it to a type that columns are declared with",
    ),
    (C.format("SELECT *, NULL AS x FROM behaviour"), '2: x is "NULL", which is not kept between SELECTs as it is'),
    (
        C.format("SELECT *\nFROM (SELECT user_id, other AS event_time FROM behaviour)"),
        "3: event_time is changed; select event_time as it is",
    ),
    (
        C.format("SELECT user_id, event_time, prise\nFROM (SELECT user_id, event_time, price FROM behaviour)"),
        "2: stream behaviour has no column prise; did you mean price?",
    ),
    (
        C.format("SELECT user_id, event_time FROM (SELECT DISTINCT * FROM behaviour)"),
        "2: DISTINCT in a SELECT that cleans events; write SELECT expressions FROM the stream WHERE",
    ),
    (
        C.format("SELECT user_id, event_time\nFROM (SELECT *, lag(wide) OVER (ORDER BY event_time) FROM behaviour)"),
        "3: an aggregate or subquery in a SELECT that cleans events; aggregate in the view around it",
    ),
    (
        C.format("SELECT b.user_id, b.event_time FROM behaviour AS b\nJOIN behaviour AS c USING (user_id)"),
        "3: JOINS in a SELECT that cleans events; for a table's columns as of each event declare [rekeyed.NAME] enrich",
    ),
    (C.format("FROM behaviour"), "2: FROM where rows of a stream are read; write SELECT … FROM a stream"),
    (
        C.format("SELECT u, t AS event_time FROM behaviour AS b(u, i)"),
        "2: a list of column names after what FROM reads; write FROM the stream or (SELECT …), and name columns with",
    ),
    (C.format("SELECT * FROM behaviour TABLESAMPLE 10%"), "2: SAMPLE after what FROM reads; write FROM the stream"),
    (C.format("SELECT user_id, event_time, wide + 1 FROM behaviour"), "2: wide + 1 has no name; name it with AS"),
    (C.format("SELECT user_id, event_time, CAST(wide AS INTEGER) FROM behaviour"), "2: CAST(wide AS INTEGER) has no n"),
    (C.format("SELECT *, prise AS x FROM behaviour"), "2: stream behaviour has no column prise; did you mean price?"),
    (
        C.format("SELECT *, wide AS _offset FROM behaviour"),
        "2: a column named _offset; rename it with AS: positions begin",
    ),
    (
        C.format("SELECT *, mean(wide) AS m FROM behaviour"),
        "2: an aggregate or subquery in a SELECT that cleans events",
    ),
    (C.format("SELECT *, wide AS user_id FROM behaviour"), "2: two columns named user_id; rename one with AS"),
    (C.format("SELECT *, wide // action AS x FROM behaviour"), "2: Binder Error"),
    (
        C.format("SELECT user_id, event_time FROM elsewhere.behaviour"),
        '1: Catalog Error: Table with name "elsewhere.behaviour" does not exist because schema "elsewhere" does not',
    ),
    (
        "WITH a(u, t) AS (\nSELECT user_id, event_time FROM behaviour)\nSELECT u, count(*) OVER w AS n\nFROM a "
        "WINDOW w AS (" + W + ")",
        "2: ( U , T ) AS in WITH; write WITH a AS (SELECT …), its columns named with AS",
    ),
    (
        "WITH RECURSIVE a AS (\nSELECT * FROM behaviour)\nSELECT user_id, count(*) OVER w AS n\nFROM a "
        "WINDOW w AS (" + W + ")",
        "2: RECURSIVE AS in WITH; write WITH a AS (SELECT …)",
    ),
]
#: The first SELECT of a UNION ALL, whose others are on the third line.
FIRST = "SELECT user_id, event_time, price FROM behaviour"
UNITED = [
    (
        C.format(f"{FIRST}\nUNION SELECT user_id, event_time, price FROM behaviour"),
        "3: UNION in FROM compares rows with each other; write UNION ALL, with the same columns in the same order",
    ),
    (C.format(f"{FIRST}\nEXCEPT ALL SELECT * FROM behaviour"), "3: EXCEPT ALL in FROM compares rows with each other"),
    (
        C.format(f"{FIRST}\nUNION ALL BY NAME SELECT price, user_id, event_time FROM behaviour"),
        "3: UNION ALL BY NAME in FROM",
    ),
    (
        C.format(f"{FIRST}\nUNION ALL SELECT user_id, event_time FROM behaviour"),
        "3: SELECT 2 of the UNION ALL has 2 columns, the first has 3; select the same columns in the same order",
    ),
    (
        C.format(f"{FIRST}\nUNION ALL SELECT user_id, event_time, quantity FROM behaviour"),
        "3: price is DECIMAL(12,2) in the first SELECT of the UNION ALL and INTEGER in SELECT 2; write CAST(… AS DECI",
    ),
    (
        C.format(f"{FIRST}\nUNION ALL SELECT user_id, event_time, NULL AS price FROM behaviour"),
        '3: price is "NULL", which is not kept between SELECTs as it is; CAST it to a type',
    ),
    (
        C.format(
            "SELECT user_id, event_time, other FROM behaviour\nUNION ALL SELECT user_id, other, event_time "
            "FROM behaviour"
        ),
        "3: the event time is event_time in the first SELECT of the UNION ALL; that of SELECT 2 is at the place of",
    ),
    (C.format(f"{FIRST}\nUNION ALL SELECT item_id, available_at, 1.0 FROM items"), "3: items is no stream; "),
    (C.format(f"{FIRST}\nUNION ALL SELECT 1, event_time, price FROM (VALUES (1))"), "3: VALUES is no stream; write"),
    (
        C.format(f"{FIRST}\nUNION ALL SELECT 1 AS user_id, TIMESTAMP '2020-01-01', 1"),
        "3: a SELECT without FROM; select",
    ),
    (
        C.format(f"{FIRST}\nUNION ALL SELECT user_id, event_time, price FROM behaviour ORDER BY 1"),
        "3: ORDER in a SELECT that cleans events",
    ),
    (
        "SELECT user_id, sum(weight) OVER w AS s\nFROM (SELECT * FROM behaviour UNION ALL SELECT * FROM behaviour)\n"
        "WINDOW w AS (" + W + ")",
        "1: sum(weight) over DOUBLE depends on evaluation order; write CAST(weight AS DECIMAL(12,2)) AS weight in",
    ),
    (
        "SELECT user_id, sum(prise) OVER w AS s\nFROM (SELECT * FROM behaviour UNION ALL SELECT * FROM behaviour)\n"
        "WINDOW w AS (" + W + ")",
        "1: stream behaviour has no column prise; did you mean price?",
    ),
]

R = "SELECT request_id, item_id,\n       {}\nFROM request\nLEFT JOIN user_activity USING (user_id)\n{}"


def ranked(expression: str, joins: str = "LEFT JOIN item_profile USING (item_id)") -> str:
    return R.format(expression, joins)


FEATURE_SETS = [
    (
        ranked("user_activity.clicks_1h || category AS x"),
        "2: x mixes batch and streaming views; split into two columns",
    ),
    (ranked("page + 1"), "2: page + 1 has no name; name it with AS"),
    (ranked("count(*) AS n"), "2: an aggregate, window or subquery in a feature set; aggregate in a view and join it"),
    (
        ranked("mean(page) AS n"),
        "2: an aggregate, window or subquery in a feature set; aggregate in a view and join it",
    ),
    (
        ranked("unnest(tags) AS n"),
        "2: unnest in a feature set makes several rows of a candidate's one; select the list",
    ),
    (
        ranked("generate_subscripts(tags, 1) AS n"),
        "2: generate_subscripts in a feature set makes several rows of a cand",
    ),
    (ranked("COLUMNS('page') AS n"), "2: SELECT *; list the columns"),
    (
        ranked("floo(page) AS n"),
        "2: Catalog Error: Scalar Function with name floo does not exist!; did you mean floor?",
    ),
    (
        ranked("page / tags[1] AS n"),
        "2: Binder Error: No function matches the given name and argument types '/(INTEGER, V",
    ),
    (ranked("page AS label"), "2: an output named label, which snapshots and samples have a column of their own for"),
    (ranked("(SELECT 1) AS n"), "2: an aggregate, window or subquery in a feature set"),
    (ranked("row_number() OVER () AS n"), "2: an aggregate, window or subquery in a feature set"),
    (ranked("request.*"), "2: SELECT *; list the columns"),
    (ranked("pagee AS x"), "2: no column pagee; did you mean page?"),
    (ranked("left + 1 AS x"), '1: Parser Error: syntax error at or near "+"; left is a keyword: if it is a name, '),
    (ranked("user_activitty.clicks_1h AS x"), "2: no column user_activitty.clicks_1h; did you mean user_activity?"),
    (ranked("user_activity.clicks_2h AS x"), "2: user_activity has no column clicks_2h; did you mean clicks_1h?"),
    (
        ranked("user_activity.user_id AS x"),
        "2: user_activity.user_id is the key the view is joined by; write request.us",
    ),
    (
        ranked("impressions_1h AS x", "LEFT JOIN again USING (user_id)"),
        "2: impressions_1h is a column of user_activity and of again; write user_activity.impressions_1h",
    ),
    (ranked("page || 1 + 'a' AS x"), "2: Binder Error"),
    (ranked("request_time - TIMESTAMP '2000-01-01' AS x"), "2: a feature of type month_day_nano_interval; make it a"),
    (ranked("[request_time - TIMESTAMP '2000-01-01'] AS x"), "2: a feature of type list<"),
    (ranked("map {1: CAST(tags[1] AS BLOB)} AS x"), "2: a feature of type map<"),
    (ranked("{'a': CAST(tags[1] AS BLOB)} AS x"), "2: a feature of type struct<"),
    (ranked("NULL AS x"), "2: a feature of type"),
    (ranked("random() AS x"), "2: random gives another value each time it is asked"),
    (ranked("request_time < now() AS x"), "2: now gives another value each time it is asked"),
    (ranked("page, page AS PAGE"), "2: two outputs named PAGE; rename one with AS"),
    ("SELECT request_id, page FROM request", "1: the feature set does not select item_id; add item_id: labels and"),
    ("SELECT item_id, page AS request_id FROM request", "1: the feature set does not select request_id"),
    (ranked("page", "JOIN item_profile USING (item_id)"), "5: INNER JOIN; write LEFT JOIN view USING"),
    (ranked("page", "LEFT JOIN item_profile ON page = 1"), "5: LEFT JOIN without USING; write LEFT JOIN view USING"),
    (
        ranked("page", "LEFT JOIN item_profil USING (item_id)"),
        "5: no view named item_profil; did you mean item_profile?",
    ),
    (ranked("page", "LEFT JOIN user_activity USING (user_id)"), "5: view user_activity is joined twice; join it once"),
    (
        ranked("page", "LEFT JOIN item_profile USING (user_id)"),
        "5: item_profile is keyed by (item_id), not by (user_id)",
    ),
    (ranked("page", "LEFT JOIN by_shop USING (shop)"), "5: view by_shop is keyed by shop, which request does not have"),
    (
        ranked("page", "LEFT JOIN texts USING (item_id)"),
        "5: item_id is int64 in request and string in view texts; declare",
    ),
    (ranked("page", "WHERE page > 1"), "5: WHERE in a feature set; a feature set is SELECT expressions FROM request"),
]

BATCH = [
    ("SELECT item_id, any_value(category) AS c FROM items GROUP BY 1", "1: any_value takes an arbitrary row"),
    ("SELECT item_id,\n last(category) AS c FROM items GROUP BY item_id", "2: last takes an arbitrary row"),
    ("SELECT item_id, category FROM items LIMIT 3", "1: LIMIT in a batch view; select by a condition"),
    ("SELECT item_id, categori FROM items", "1: Binder Error"),
    ("SELECT item_id, category, score AS Category FROM items", "1: two outputs named Category; rename one with AS"),
    ("SELECT item_id, category FROM item", "1: no table item; did you mean items?; batch views read [tables.*]"),
    ("SELECT item_id, clicks_1d FROM item_stats", "1: item_stats is not an offline table; "),
    ("SELECT item_id FROM items JOIN behaviour USING (item_id)", "1: behaviour is not an offline table"),
    ("SELECT * FROM read_parquet('x')", "1: no table "),
    ("SELECT 1 AS one", "1: a view that reads nothing; read a stream, an offline table or request"),
    ("SELECT max(score) AS s FROM items GROUP BY item_id", "1: GROUP BY item_id is no output column; select it"),
    ("SELECT max(score) AS s FROM items GROUP BY ALL", "1: GROUP BY without plain columns; name the entity's columns"),
    ("SELECT item_id, today() AS d FROM items", "1: today gives another value each time it is asked"),
]

OTHERS = {
    "sql/again.sql": view("count(*) OVER w AS impressions_1h"),
    "sql/by_shop.sql": view("count(*) OVER w AS n", window=W.replace("user_id", "shop"), keys="shop"),
    "sql/texts.sql": "SELECT category AS item_id, max(score) AS s FROM items GROUP BY 1",
}


@pytest.mark.parametrize(("sql", "message"), CLEANED + UNITED)
def test_selects_that_clean_events(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")


@pytest.mark.parametrize(("sql", "message"), FEATURE_SETS)
def test_feature_sets(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {**OTHERS, "sql/x.sql": sql}, f"sql/x.sql:{message}")


@pytest.mark.parametrize(("sql", "message"), BATCH)
def test_batch_views(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")
