"""Everything outside the language is refused with file, line, construct and remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dovetail.features import Project
from dovetail.platform.errors import DefinitionError
from tests.features.language.conftest import TOML

LoadProject = Callable[..., Project]

W = "PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW"


def view(aggregate: str, *, window: str = W, rest: str = "", keys: str = "user_id") -> str:
    return f"SELECT {keys},\n       {aggregate}\nFROM behaviour {rest}\nWINDOW w AS ({window})"


def framed(frame: str) -> str:
    return view("count(*) OVER w AS n", window=f"PARTITION BY user_id ORDER BY event_time {frame}")


#: (the view's text, what the message says after "sql/x.sql:")
STREAMING = [
    (
        view("sum(weight) OVER w AS s"),
        "2: sum(weight) over DOUBLE depends on evaluation order; declare weight DECIMAL(12,2) in sql/behaviour.sql",
    ),
    (
        view("avg(ratio) OVER w AS s"),
        "2: avg(ratio) over FLOAT depends on evaluation order; declare ratio DECIMAL(12,2)",
    ),
    (view("sum(weight * 2) OVER w AS s"), "2: sum(weight * 2) over DOUBLE depends on evaluation order; make the arg"),
    (view("sum(action) OVER w AS s"), "2: "),
    (view("sum(action = 'a') OVER w AS s"), "2: sum(action = 'a') over BOOLEAN; use an integer"),
    (view("sum(price * wide) OVER w AS s"), "2: sum(price * wide) over DECIMAL(31,2); use an integer or a DECIMAL of"),
    (view("min(tags) OVER w AS s"), "2: min(tags) over VARCHAR[] is not kept by the stream; write it element by ele"),
    (
        view("sum(tags) OVER w AS s"),
        "2: sum(tags) over VARCHAR[]; write sum_each(list(CAST(tags AS DECIMAL(12,6)[n])) OVER w) for arrays of n, or",
    ),
    (
        view("histogram(tags) OVER w AS s"),
        "2: histogram(tags) over VARCHAR[] is not kept by the stream; write histogram_each(list(tags) OVER w) over a",
    ),
    (
        view("newest(list(tags) OVER w, 3) AS s"),
        "2: newest(tags) over VARCHAR[] is not kept by the stream; use an element like tags[1], a number like len(tags",
    ),
    (view("max(price * wide) OVER w AS s"), "2: max(price * wide) over DECIMAL(31,2) is not kept by the stream; use a"),
    (view("count(DISTINCT weight) OVER w AS s"), "2: count DISTINCT (weight) over DOUBLE counts values that compare"),
    (view("count(DISTINCT tags) OVER w AS s"), "2: count DISTINCT (tags) over VARCHAR[] is not kept by the stream"),
    (view("sum(DISTINCT wide) OVER w AS s"), "2: sum(DISTINCT …); write count(DISTINCT x), or last_distinct(list(x)"),
    (view("stddev(wide) OVER w AS s"), "2: stddev_samp(wide) over BIGINT needs sums of squares beyond the 128 bits"),
    (view("var_pop(weight) OVER w AS s"), "2: var_pop(weight) over DOUBLE depends on evaluation order; declare weight"),
    (view("histogram(ratio) OVER w AS s"), "2: histogram(ratio) over FLOAT counts values that compare equal and print"),
    (view("arg_max(action, shop) OVER w AS s"), "2: arg_max(action, shop) over VARCHAR and VARCHAR in the order of"),
    (view("arg_max(action) OVER w AS s"), "2: arg_max with 1 arguments; write arg_max(x, y) or (x, y, k)"),
    (view("arg_max(action, event_time, wide) OVER w AS s"), "2: arg_max of wide values; write a number from 1 to 1000"),
    (view("arg_max(action, event_time, 0) OVER w AS s"), "2: arg_max of 0 values; write a number from 1 to 1000"),
    (
        view("first(price) FILTER (WHERE wide > 0) OVER w AS s"),
        "2: first with FILTER, which DuckDB does not have; write arg_min(x, event_time) FILTER (WHERE …) OVER w",
    ),
    (view("median(price) OVER w AS s"), "2: median over a window needs every value of the window in order; count ex"),
    (view("approx_count_distinct(shop) OVER w AS s"), "2: approx_count_distinct over a window is a sketch: its error"),
    (view("approx_quantile(price, 0.5) OVER w AS s"), "2: approx_quantile over a window is a sketch: its error depen"),
    (view("mode(shop) OVER w AS s"), "2: mode over a window leaves ties to chance; write top_k(histogram(x) OVER w"),
    (view("list(shop) OVER w AS s"), "2: list over a window keeps every event; write newest(list(x) OVER w, k)"),
    (view("sum(wide * exp(-1)) OVER w AS s"), "2: sum(wide * exp(-1)) over DOUBLE depends on evaluation order; make t"),
    (view("my_own(price) OVER w AS s"), "2: my_own over a window; use count"),
    (
        view("any_value(price) OVER w AS s"),
        "2: any_value over a window depends on evaluation order; use arg_max(x, event_time) for the latest value",
    ),
    (view("last_distinct(list(shop) OVER w) AS s"), "2: last_distinct without a number; write last_distinct(list(x) O"),
    (view("last_distinct(histogram(shop) OVER w, 2) AS s"), "2: last_distinct of histogram; write last_distinct(list("),
    (view("top_k(histogram(shop) OVER w, 5000) AS s"), "2: top_k of 5000 values; write a number from 1 to 1000"),
    (view("last_distinct(list(shop ORDER BY wide) OVER w, 2) AS s"), "2: last_distinct of more than a value; write la"),
    (view("sum_by(list(shop) OVER w) AS s"), "2: sum_by of shop; write sum_by(list({'k': key, 'v': value}) OVER w)"),
    (view("sum_by(list({'k': shop, 'v': weight}) OVER w) AS s"), "2: sum_by(shop, weight) over VARCHAR and DOUBLE dep"),
    (view("sum_by(list({'k': weight, 'v': wide}) OVER w) AS s"), "2: sum_by(weight, wide) over DOUBLE and BIGINT cou"),
    (view("histogram() OVER w AS s"), "2: histogram without an argument; write histogram(x)"),
    (view("count(*) OVER w + price AS s"), "2: price beside an aggregate; compute with aggregates only; use the ev"),
    (view("count(*) OVER w || 1 + 'a' AS s"), "2: Binder Error"),
    (
        view("row_number() OVER w AS s"),
        "2: row_number over a window places the row itself, and a request is no event; ",
    ),
    (
        view("max(price, 3) OVER w AS s"),
        "2: max with more than one argument; the 3 greatest are arg_max(price, price, ",
    ),
    (view("min(wide, 2) OVER w AS s"), "2: min with more than one argument; the 2 least are arg_min(wide, wide, 2)"),
    (view("last(shop, 4) OVER w AS s"), "2: last with more than one argument; the 4 are arg_max(shop, event_time, 4)"),
    (view("max(mean(wide)) OVER w AS s"), "2: an aggregate or subquery inside max; use the event's own columns"),
    (view("max(geomean(wide)) OVER w AS s"), "2: an aggregate or subquery inside max; use the event's own columns"),
    (view("sum(max(wide) OVER w) AS s"), "2: sum around an aggregate puts entities together; write one aggregate OVER"),
    (view("avg(unnest([wide])) OVER w AS s"), "2: unnest inside avg makes several of one; use a value of the event"),
    (view("max(wide) FILTER (WHERE unnest([true])) OVER w AS s"), "2: unnest inside max makes several of one; use a"),
    (view("unnest(arg_max(wide, event_time, 3) OVER w) AS s"), "2: unnest makes several rows of an entity's one; keep"),
    (view("sum(wide) OVER w + unnest([1, 2]) AS s"), "2: unnest makes several rows of an entity's one; keep the list"),
    (
        view("count(*) OVER w AS s", rest="WHERE unnest([true])"),
        "3: unnest in WHERE; filter on the event's own columns",
    ),
    (view("count(*) OVER w AS s", rest="WHERE mean(wide) > 1"), "3: an aggregate or subquery in WHERE; filter on the"),
    (view("count(*) OVER w AS _s"), "1: an output named _s; rename it with AS: names of its own begin with _"),
    (
        view("lag(wide) OVER w AS s"),
        "2: lag over a frame, which DuckDB does not look at; write nth_value(x, n ORDER BY event_time DESC) OVER w for",
    ),
    (
        view("lag(wide, 2, 0) OVER w AS s"),
        "2: lag with a default; write CASE WHEN count(*) OVER w < 2 THEN 0 ELSE lag(…) END",
    ),
    (view("lag(wide ORDER BY event_time) OVER w AS s"), "2: lag with an order of its own; write nth_value(x, n ORDER"),
    (view("lag(wide, 2000) OVER w AS s"), "2: lag of 2000 values; write a number from 1 to"),
    (view("nth_value(wide, 2, 3) OVER w AS s"), "2: nth_value with 3 arguments; write nth_value(x, n)"),
    (view("nth_value(wide, 2 ORDER BY other DESC) OVER w AS s"), "2: nth_value with an order of its own; write"),
    (view("nth_value(wide, 2 ORDER BY event_time + 1) OVER w AS s"), "2: nth_value with an order of its own; write"),
    (
        view("nth_value(wide, 2 ORDER BY event_time, other) OVER w AS s"),
        "2: nth_value with 3 arguments; write nth_value(x, n)",
    ),
    (
        view("nth_value(wide, 2) FILTER (WHERE wide > 1) OVER w AS s"),
        "2: nth_value with FILTER, which DuckDB does not have; write arg_min(x, event_time, n) FILTER (WHERE …) OVER w",
    ),
    (
        view("lag(wide) FILTER (WHERE wide > 1) OVER w AS s"),
        "2: lag with FILTER, which DuckDB does not have; write newest(list(x)",
    ),
    (view("product(wide) OVER w AS s"), "2: product over a window multiplies doubles, whose last digits depend on the"),
    (
        view("kurtosis(ratio) OVER w AS s"),
        "2: kurtosis(ratio) over FLOAT depends on evaluation order; declare ratio DECIMAL(12,2)",
    ),
    (
        view("least_by(list({'k': shop, 'v': weight}) OVER w) AS s"),
        "2: least_by(shop, weight) over VARCHAR and DOUBLE is not kept per key; make the value a number of at most 18",
    ),
    (
        view("greatest_by(list({'k': weight, 'v': wide}) OVER w) AS s"),
        "2: greatest_by(weight, wide) over DOUBLE and BIGINT counts values that compare equal and print differently; C",
    ),
    (view("newest(list(wide) OVER w) AS s"), "2: newest without a number; write newest(list(x) OVER w, 3)"),
    (view("count_if(wide > 1) OVER w AS s"), "2: count_if over a window is a filter; write count(*) FILTER (WHERE"),
    (view("count(*) OVER w AS s").replace("behaviour", "behavior"), "3: no table behavior; did you mean behaviour?"),
    (
        view("sum(floo(wide)) OVER w AS s"),
        "2: Catalog Error: Scalar Function with name floo does not exist!; did you mea",
    ),
    (
        view("max(price ORDER BY item_id) OVER w AS s"),
        "2: max with an order of its own; write max(x): its order is decided",
    ),
    (view("max((SELECT 1)) OVER w AS s"), "2: an aggregate or subquery inside max; use the event's own columns"),
    (view("count(*) OVER w"), "2: count(*) OVER w has no name; name it with AS"),
    (
        view("sum(at) OVER w AS s"),
        '1: Parser Error: syntax error at or near ")"; at is a keyword: if it is a name, write it in double quotes; ',
    ),
    (view("price * 2 AS s"), "2: price * 2 is neither an entity column nor an aggregate; write the expression in the"),
    (view("price"), "2: price is neither an entity column nor an aggregate; select (user_id) and aggregates"),
    (view("count(*) OVER w AS s", keys="user_id AS uid"), "1: entity column user_id renamed to uid; keep its name"),
    (view("count(*) OVER w AS s", keys="*"), "1: SELECT *; list the entity columns and aggregates"),
    ("SELECT count(*) OVER w AS s FROM behaviour WINDOW w AS (" + W + ")", "1: entity column user_id is not selected"),
    (view("count(*) OVER w AS s, sum(wide) OVER w AS S"), "1: two outputs named S; rename one with AS"),
    (view("sum(prise) OVER w AS s"), "2: stream behaviour has no column prise; did you mean price?"),
    (view("sum(wide // action) OVER w AS s"), "2: Binder Error"),
    (view("count(*) FILTER (WHERE action + 1) OVER w AS s"), "2: Binder Error"),
    (view("sum(no_such_function(wide)) OVER w AS s"), "2: Catalog Error"),
    (view("count(*) OVER w AS s", rest="WHERE price > avg(price)"), "3: an aggregate or subquery in WHERE; filter on"),
    (view("count(*) OVER w AS s", rest="WHERE action + 1"), "3: Binder Error"),
    (
        view("count(*) OVER w AS s", rest="JOIN items USING (item_id)"),
        "3: JOINS in a streaming view; for a table's columns as",
    ),
    (view("count(*) OVER w AS s", keys="DISTINCT user_id"), "1: DISTINCT in a streaming view"),
    ("SELECT user_id, count(*) AS n FROM behaviour GROUP BY user_id", "1: GROUP in a streaming view"),
    ("SELECT user_id, price FROM behaviour", "1: a plain SELECT over stream behaviour; a streaming view aggregates"),
    (view("max(random()) OVER w AS s"), "2: random gives another value each time it is asked; use the row's own"),
    (view("max(event_time - now()) OVER w AS s"), "2: now gives another value each time it is asked"),
    (view("count(*) FILTER (WHERE event_time < CURRENT_TIMESTAMP) OVER w AS s"), "2: CURRENT_TIMESTAMP gives another"),
    (view("count(*) FILTER (WHERE event_time < CURRENT_DATE) OVER w AS s"), "2: CURRENT_DATE gives another value"),
    # windows
    (view("count(*) OVER nope AS s"), '1: Parser Error: window "nope" does not exist'),
    (
        view("count(*) OVER (w RANGE INTERVAL 1 DAY PRECEDING) AS s", window=W.split("RANGE")[0]),
        "2: OVER (w …) extends a named window; name every window in full",
    ),
    (framed(""), "4: a window without frame, which is unbounded; write RANGE BETWEEN UNBOUNDED"),
    (framed("ROWS BETWEEN 3000 PRECEDING AND CURRENT ROW"), "4: ROWS 3000 PRECEDING; write a number of rows from 1 to"),
    (
        framed("ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"),
        "4: ROWS UNBOUNDED PRECEDING; write RANGE BETWEEN UNBO",
    ),
    (framed("ROWS BETWEEN 3 PRECEDING AND 5 PRECEDING"), "4: ROWS 3 PRECEDING AND 5 PRECEDING; write the greater"),
    (framed("ROWS BETWEEN 3 PRECEDING AND 0 PRECEDING"), "4: ROWS 0 PRECEDING; write a number of rows from 1 to"),
    (
        framed("ROWS BETWEEN 5 PRECEDING AND CURRENT ROW EXCLUDE TIES"),
        "4: EXCLUDE in a ROWS frame, which counts the rows that it leaves out; drop EXCLUDE, and declare [features] s",
    ),
    (
        framed("RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND INTERVAL 1 DAY PRECEDING"),
        "4: a frame that ends 86400000000 us before the request, and begins 3600000000 us before it; write the longer",
    ),
    (
        framed("RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND INTERVAL 1 MONTH PRECEDING"),
        "4: INTERVAL '1' MONTH has no fixed length",
    ),
    (
        framed(
            "RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND hop(event_time, INTERVAL 1 HOUR, INTERVAL 1 MINUTE) PRECEDING"
        ),
        "4: a frame that ends HOP(event_time, INTERVAL '1' HOUR, INTERVAL '1' MINUTE) PRECEDING; write the end as a co",
    ),
    (framed("GROUPS BETWEEN 3 PRECEDING AND CURRENT ROW"), "4: a GROUPS frame counts groups of ties; write RANGE"),
    (framed("RANGE BETWEEN CURRENT ROW AND CURRENT ROW"), "4: a frame that is not … PRECEDING AND … PRECEDING; events"),
    (framed("RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND UNBOUNDED FOLLOWING"), "4: a frame that is not … PRECEDING"),
    (
        framed("RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW"),
        "4: EXCLUDE in a frame; drop EXCLUDE",
    ),
    (framed("RANGE BETWEEN INTERVAL 1 MONTH PRECEDING AND CURRENT ROW"), "4: INTERVAL '1' MONTH has no fixed length"),
    (framed("RANGE BETWEEN INTERVAL '2 years' PRECEDING AND CURRENT ROW"), "4: "),
    (framed("RANGE BETWEEN INTERVAL (-1) HOUR PRECEDING AND CURRENT ROW"), "4: "),
    (framed("RANGE BETWEEN INTERVAL 'x' HOUR PRECEDING AND CURRENT ROW"), "4: INTERVAL 'x' HOUR: Conversion Error"),
    (framed("RANGE BETWEEN quantity PRECEDING AND CURRENT ROW"), "4: frame bound quantity; write a constant INTERVAL"),
    (
        framed("RANGE BETWEEN hop(event_time, INTERVAL 1 DAY) PRECEDING AND CURRENT ROW"),
        "4: hop with other arguments; write hop(event_time, INTERVAL size, INTERVAL step)",
    ),
    (
        framed("RANGE BETWEEN hop(other, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW"),
        "4: hop with other arguments",
    ),
    (
        framed("RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 0 HOUR) PRECEDING AND CURRENT ROW"),
        "4: hop with a step of zero",
    ),
    (
        view("count(*) OVER w AS n", window=W.replace("event_time", "other")),
        "4: a window of stream behaviour has ORDER BY other; ORDER BY event_time, the stream's event time",
    ),
    (view("count(*) OVER w AS n", window=W.replace("ORDER BY event_time ", "")), "4: a window of stream behaviour has"),
    (
        view("count(*) OVER w AS n", window=W.replace("event_time", "event_time DESC")),
        "4: a window of stream behaviour",
    ),
    (view("count(*) OVER w AS n", window=W.replace("PARTITION BY user_id", "")), "4: a window without PARTITION BY"),
    (view("count(*) OVER w AS n", window=W.replace("user_id", "user_id % 10")), "4: PARTITION BY an expression"),
    (
        view("count(*) OVER w AS n", window=W.replace("user_id", "user_id, USER_ID")),
        "1: PARTITION BY names a column twice",
    ),
    (
        view("count(*) OVER w AS n", window=W.replace("user_id", "weight"), keys="weight"),
        "1: entity column weight is double, which makes no key; partition by integers",
    ),
    (
        view(f"count(*) OVER w AS n, count(*) OVER ({W.replace('user_id', 'item_id')}) AS m"),
        "2: windows of one view partition by (",
    ),
    (
        view(", ".join(f"count(*) FILTER (WHERE quantity = {i}) OVER w AS n{i}" for i in range(64))),
        "1: 64 different arguments and filters; a view keeps at most 63; split the view in two",
    ),
]

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


def refused(load_project: LoadProject, files: dict[str, str | None], message: str, also: str = "") -> None:
    with pytest.raises(DefinitionError) as raised:
        load_project(files)
    assert str(raised.value).startswith(message)
    assert also in str(raised.value)
    remedy = str(raised.value).partition("; ")[2]
    assert remedy, "a remedy"
    assert not any(said in remedy for said in ("correct the expression", "correct the statement")), "says what to write"


@pytest.mark.parametrize(("sql", "message"), STREAMING)
def test_streaming_views(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")


@pytest.mark.parametrize(("sql", "message"), CLEANED + UNITED)
def test_selects_that_clean_events(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")


@pytest.mark.parametrize(("sql", "message"), FEATURE_SETS)
def test_feature_sets(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {**OTHERS, "sql/x.sql": sql}, f"sql/x.sql:{message}")


@pytest.mark.parametrize(("sql", "message"), BATCH)
def test_batch_views(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")


REQUEST = """CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL, page INTEGER,
    candidates STRUCT(item_id BIGINT, slot INTEGER)[] NOT NULL
);"""
TIMES = "event_time TIMESTAMP NOT NULL"
LABELS = f"CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, {TIMES});"
EXPOSURE = f"CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, {TIMES});"

FILES = [
    ({"sql/x.sql": "SELECT 1; SELECT 2"}, "sql/x.sql:1: expected one SELECT, found 2 statements; a file holds either"),
    ({"sql/x.sql": "DROP TABLE items"}, "sql/x.sql:1: expected one SELECT, found DROP; a file holds either"),
    ({"sql/x.sql": "-- nothing"}, "sql/x.sql:1: expected one SELECT, found 0 statements"),
    ({"sql/x.sql": "SELECT FROM WHERE"}, "sql/x.sql:1: not valid SQL"),
    ({"sql/x.sql": "SELECT item_id FROM items QUALIFY"}, "sql/x.sql:1: "),
    ({"sql/behaviour.sql": None}, "dovetail.toml:2: [streams.behaviour] no CREATE TABLE behaviour in sql; known are"),
    ({"sql/items.sql": None}, "dovetail.toml:5: [tables.items] no CREATE TABLE items in sql; "),
    ({"sql/request.sql": None}, "dovetail.toml:1: [request] no CREATE TABLE request in sql; "),
    ({"sql/labels.sql": None}, "dovetail.toml:14: [labels.streams.exposure] no CREATE TABLE exposure in sql"),
    (
        {"sql/item_profile.sql": None, "sql/ranking.sql": "SELECT request_id, item_id FROM request"},
        "dovetail.toml:8: [b",
    ),
    (
        {"sql/x.sql": "CREATE TABLE extra (a BIGINT)"},
        "sql/x.sql:1: nothing in dovetail.toml uses table extra; declare [streams.extra], [tables.extra] or",
    ),
    (
        {"sql/x.sql": "CREATE TABLE items (a BIGINT)"},
        "sql/x.sql:1: table items is declared twice, first in sql/items.sql:1",
    ),
    ({"sql/x.sql": "CREATE TABLE y (_a BIGINT)"}, "sql/x.sql:1: table y has a reserved column _a; rename the column"),
    ({"sql/x.sql": "CREATE TABLE y (a BIGINT, A BIGINT)"}, "sql/x.sql:1: table y has two columns named a; rename"),
    ({"sql/request.sql": None, "sql/items.sql": REQUEST}, "dovetail.toml:5: [tables.items]"),
    (
        {"sql/behaviour.sql": "CREATE TABLE behaviour (user_id BIGINT, event_time TIMESTAMP)"},
        "sql/behaviour.sql:1: behaviour.event_time is timestamp[us] and may be NULL; declare event_time TIMESTAMP NOT",
    ),
    (
        {"sql/behaviour.sql": "CREATE TABLE behaviour (user_id BIGINT, event_time BIGINT NOT NULL)"},
        "sql/behaviour.sql:1: behaviour.event_time is int64; declare event_time TIMESTAMP NOT NULL",
    ),
    (
        {"sql/behaviour.sql": f"CREATE TABLE behaviour (item_id BIGINT, {TIMES})"},
        "sql/behaviour.sql:1: the key of stream behaviour needs column 'user_id'",
    ),
    (
        {"sql/items.sql": "CREATE TABLE items (a BIGINT)"},
        "sql/items.sql:1: offline table items needs column 'available_at'",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("item_id BIGINT", "item_id VARCHAR")},
        "sql/labels.sql:1: click.item_id is string, request's is int64; declare the same type in both",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("request_id VARCHAR NOT NULL", "request_id VARCHAR")},
        "sql/labels.sql:1: click.request_id may be NULL; declare request_id NOT NULL: labels are found by it",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("item_id", "item")},
        "sql/labels.sql:1: label stream click needs column",
    ),
    (
        {"sql/request.sql": REQUEST.replace("request_id VARCHAR NOT NULL", "request_id VARCHAR")},
        "sql/request.sql:1: request.request_id may be NULL; declare request_id NOT NULL",
    ),
    (
        {"sql/request.sql": REQUEST.replace("_time TIMESTAMP", "_time BIGINT")},
        "sql/request.sql:1: request.request_time is",
    ),
    (
        {"sql/request.sql": REQUEST.replace("STRUCT(item_id BIGINT, slot INTEGER)[]", "BIGINT[]")},
        "sql/request.sql:1: reques",
    ),
    (
        {"sql/request.sql": REQUEST.replace("item_id", "thing")},
        "sql/request.sql:1: request.candidates has no member item_id",
    ),
    (
        {"sql/request.sql": REQUEST.replace("slot", "page")},
        "sql/request.sql:1: page is both a request column and a cand",
    ),
]


@pytest.mark.parametrize(("files", "message"), FILES)
def test_files_and_declarations(load_project: LoadProject, files: dict[str, str | None], message: str) -> None:
    refused(load_project, files, message)


def test_a_view_may_not_have_a_tables_name(load_project: LoadProject) -> None:
    both = {"sql/tables.sql": "CREATE TABLE items (item_id BIGINT, available_at TIMESTAMP NOT NULL)"}
    refused(
        load_project,
        {**both, "sql/items.sql": "SELECT item_id FROM items"},
        "sql/items.sql:1: items is a table and a view; rename the file",
    )


def test_a_batch_view_needs_a_period(load_project: LoadProject) -> None:
    toml = """[streams.behaviour]
key = "user_id"
[tables.items]
path = "items.parquet"
[batch_views.item_profile]
every = "0s"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
    refused(
        load_project, {"dovetail.toml": toml}, "dovetail.toml:5: [batch_views.item_profile] every is 0; write a period"
    )


VALUED = f"{EXPOSURE}\n" + LABELS.replace(
    "TABLE click (", "TABLE click (dwell DOUBLE, amount DECIMAL(9,2), tags VARCHAR[], shop VARCHAR, "
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('dwel = "last"', "needs column 'dwel', which table click does not have"),
        (
            'dwell = "sum"',
            "dwell is double, of which there is no sum for samples; declare dwell BIGINT or DECIMAL(p,s)",
        ),
        ('dwell = "max"', "no max for samples; declare dwell a number that is exact, DATE or TIMESTAMP, or take"),
        ('shop = "min"', "no min for samples; declare shop a number that is exact"),
        ('tags = "first"', "no first for samples; declare its members as columns of their own"),
        ('item_id = "first"', "leave it out: samples have the request's keys, and click_time"),
    ],
)
def test_a_value_of_labels_is_there_and_exact(load_project: LoadProject, values: str, message: str) -> None:
    toml = TOML.replace("[labels.streams.click]", f"[labels.streams.click]\nvalues = {{ {values} }}")
    refused(
        load_project,
        {"dovetail.toml": toml, "sql/labels.sql": VALUED},
        "sql/labels.sql:2: labels.streams.click.values",
        message,
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tags", "is list<.*>, which names no event; declare tags VARCHAR or BIGINT"),
        ("idd", "event_id needs column .idd., which table click does not have"),
    ],
)
def test_an_id_of_labels_is_there_and_has_one_text(load_project: LoadProject, column: str, message: str) -> None:
    declared = f'[labels.streams.click]\nevent_id = "{column}"\nunique_within = "1h"'
    files = {"dovetail.toml": TOML.replace("[labels.streams.click]", declared), "sql/labels.sql": VALUED}
    with pytest.raises(DefinitionError, match=message):
        load_project(files)


def test_no_feature_is_called_like_a_value_of_labels(load_project: LoadProject) -> None:
    toml = TOML.replace("[labels.streams.click]", '[labels.streams.click]\nvalues = { amount = "sum" }')
    ranking = "SELECT request_id, item_id, page AS click_amount FROM request"
    files = {"dovetail.toml": toml, "sql/labels.sql": VALUED, "sql/ranking.sql": ranking}
    with pytest.raises(DefinitionError, match="click_amount"):
        load_project(files)


def test_an_empty_folder_has_no_definitions(load_project: LoadProject) -> None:
    nothing = dict.fromkeys(
        f"sql/{n}.sql"
        for n in ("behaviour", "items", "request", "labels", "user_activity", "item_stats", "item_profile", "ranking")
    )
    refused(load_project, nothing, "sql:1: no definitions here; run `dovetail init DIR`")
