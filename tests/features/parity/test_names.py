"""Columns may have any name: keywords, names that the engines use themselves, spaces, quotes, other alphabets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.features import Project, load
from dovetail.features.duck.names import keywords, reads_as_column
from dovetail.platform.errors import DefinitionError
from tests.features.parity.replay import bits

#: Aliases, tables and parameters in the SQL of both engines; what begins with an underscore no column may be called.
OWN = (
    *(
        "id",
        "t",
        "k0",
        "k1",
        "a0",
        "f0",
        "v0",
        "n0",
        "q0",
        "low",
        "low0",
        "seen",
        "event",
        "events",
        "probes",
        "inputs",
    ),
    *(
        "number",
        "late",
        "unseen",
        "recency",
        "e",
        "p",
        "w",
        "f",
        "k",
        "c0",
        "c1",
        "argument",
        "value",
        "rows",
        "cleaned",
    ),
    *("given_events", "given_probes", "rows_of_the_batch", "window_keys", "numbered", "counted", "wanted", "found"),
    *("request_rows", "aggregates", "behaviour", "view", "request", "act", "main", "memory", "position", "at", "rowid"),
)
ODD = (
    *(
        "my col",
        "a.b",
        'a"b',
        "it's",
        "größe",
        "日本",
        "😀",
        "100%",
        "1st",
        "click-rate",
        "a;b",
        "a--b",
        "a/*b",
        "a{b}",
    ),
    *(
        "a\\b",
        "*",
        "UserName",
        "x" * 300,
        "act.n",
        "count(*)",
        "$1",
        "?",
        "(",
        "'",
        '"',
        '""',
        " ",
        "NULL",
        "\t",
        "a,b",
    ),
)
FRAMES = (
    "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
)
TOML = """[streams.behaviour]
key = "user_id"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
LABELS = "".join(
    f"CREATE TABLE {kind} (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);\n"
    for kind in ("exposure", "click")
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def written(folder: Path, names: Sequence[str], frame: str) -> Project:
    """A project whose events, requests, views and features have columns of these ``names``, read in every clause."""
    q = [quoted(name) for name in names]
    declared = ", ".join(f"{name} VARCHAR" for name in q)
    last = ", ".join(f"last({name}) OVER w AS {name}, max({name} || 'x') OVER w AS {quoted(n + ' x')}"
                     for n, name in zip(names, q, strict=True))  # fmt: skip
    seen = f"count(*) FILTER (WHERE {q[0]} = 'b' AND {q[-1]} IS NOT NULL) OVER w AS \"n n\""
    features = ", ".join(f"act.{name} AS {quoted('f ' + n)}, request.{name} || act.{name} AS {quoted('g ' + n)}"
                         for n, name in zip(names, q, strict=True))  # fmt: skip
    files = {
        "dovetail.toml": TOML,
        "sql/behaviour.sql": f"CREATE TABLE behaviour (user_id VARCHAR, event_time TIMESTAMP NOT NULL, {declared});",
        "sql/request.sql": "CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, "
        f"request_time TIMESTAMP NOT NULL, {declared}, candidates STRUCT(item_id BIGINT)[] NOT NULL);",
        "sql/labels.sql": LABELS,
        "sql/act.sql": f"SELECT user_id, {last}, {seen} FROM behaviour WHERE {q[0]} IS NOT NULL AND {q[-1]} LIKE '_' "
        f"WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})",
        "sql/ranking.sql": f'SELECT request_id, item_id, act."n n" AS n_, {features} FROM request '
        "LEFT JOIN act USING (user_id)",
    }
    (folder / "sql").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return load(folder)


def chunks() -> Iterator[tuple[str, ...]]:
    distinct = {name.lower(): name for name in (*OWN, *ODD, *sorted(keywords()))}
    taken = {"user_id", "event_time", "request_id", "request_time", "item_id", "candidates"}
    names = [name for low, name in distinct.items() if low not in taken]
    yield from (tuple(names[start : start + 30]) for start in range(0, len(names), 30))


@pytest.mark.parametrize("names", list(chunks()), ids=lambda names: names[0][:20].strip() or "odd")
def test_hostile_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Both engines give every column its own value, over windows of time and of rows."""
    for number, frame in enumerate(FRAMES):
        project = written(tmp_path / str(number), names, frame)
        values = {name: ["a", "b", "c"] if i % 2 else ["p", "b", "r"] for i, name in enumerate(names)}
        times = pa.array([1_000_000, 2_000_000, 3_000_000], pa.timestamp("us"))
        events = pa.table({"user_id": ["u"] * 3, "event_time": times, **values})
        requests = pa.table(
            {
                "request_id": ["r1", "r2"],
                "user_id": ["u", "nobody"],
                "request_time": pa.array([9_000_000, 9_000_000], pa.timestamp("us")),
                **{name: [f"v{i}", None] for i, name in enumerate(names)},
                "item_id": [1, 1],
            }
        )
        batch, stream = (
            project.evaluate(None, requests, {"behaviour": events}, engine=engine) for engine in ("batch", "stream")
        )
        assert batch.schema == stream.schema
        for name in batch.column_names:
            assert bits(batch.column(name)) == bits(stream.column(name)), name
        for i, name in enumerate(names):
            newest = values[name][-1]
            assert stream.column(f"f {name}").to_pylist() == [newest, None]
            assert stream.column(f"g {name}").to_pylist() == [f"v{i}{newest}", None]
        assert stream.column("n_").to_pylist() == [1, 0]


def test_what_is_a_column_without_quotes() -> None:
    """Names that have stood plainly in a view's text stay so, because its state is known by the text."""
    assert all(reads_as_column(name) for name in ("price", "action", "time", "position", "type", "key", "current_date"))
    assert not any(reads_as_column(name) for name in ("true", "null", "order", "left", "user id", "1st", "größe"))


RESERVED = ("score", "label", "weight", "_request", "model_version", "click_time", "request_time", "_seen_act", "_row")


@pytest.mark.parametrize("name", RESERVED)
def test_a_feature_is_called_as_no_column_of_a_sample(tmp_path: Path, name: str) -> None:
    """A feature of that name would be replaced by the sample's own column, or be what the model learns from."""
    written(tmp_path, ("x",), FRAMES[0])
    ranking = f'SELECT request_id, item_id, act.x AS "{name}" FROM request LEFT JOIN act USING (user_id)'
    (tmp_path / "sql/ranking.sql").write_text(ranking)
    with pytest.raises(DefinitionError, match=f"an output named {name}, which snapshots and samples have"):
        load(tmp_path)


def test_a_feature_may_be_called_request(tmp_path: Path) -> None:
    written(tmp_path, ("x",), FRAMES[0])
    ranking = "SELECT request_id, item_id, act.x AS request FROM request LEFT JOIN act USING (user_id)"
    (tmp_path / "sql/ranking.sql").write_text(ranking)
    assert load(tmp_path).feature_set.schema.names[-1] == "request"


def test_the_time_of_the_request_may_be_selected_as_it_is(tmp_path: Path) -> None:
    written(tmp_path, ("x",), FRAMES[0])
    (tmp_path / "sql/ranking.sql").write_text("SELECT request_id, item_id, request_time FROM request")
    assert load(tmp_path).feature_set.schema.names[-1] == "request_time"


def test_a_request_column_that_is_called_like_a_views_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"act\.n is a column of request, or of one view, and a view's column"):
        written(tmp_path, ("n", "act.n"), FRAMES[0])
