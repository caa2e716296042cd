"""Streaming views outside the language are refused with file, line, construct and remedy."""

from __future__ import annotations

import pytest

from tests.features.language.refusing import LoadProject, W, framed, refused, view

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
    (
        framed("ROWS BETWEEN 100001 PRECEDING AND CURRENT ROW"),
        "4: ROWS 100001 PRECEDING; write a number of rows from 1 to 100000",
    ),
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


@pytest.mark.parametrize(("sql", "message"), STREAMING)
def test_streaming_views(load_project: LoadProject, sql: str, message: str) -> None:
    refused(load_project, {"sql/x.sql": sql}, f"sql/x.sql:{message}")
