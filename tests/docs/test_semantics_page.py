"""Every example of docs/semantics.md, in both engines."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.duck.binding import Binder
from dovetail.features.language.source import Source
from dovetail.features.language.streaming_views import parse_stream_view
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.stream.rerun import ViewReplay, with_positions
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema
from tests.features.parity.strategies import Schema, view_of
from tests.places import ROOT

PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
SCHEMA = Schema(
    {"item": "VARCHAR", "action": "VARCHAR", "price": "DECIMAL(9,2)", "stock": "INTEGER", "score": "DOUBLE"}
)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
EVENTS = [row for row in ROWS if row[0].isdigit()]
EXAMPLES = [row for row in ROWS if row[0].startswith("`") and len(row) == 4]
#: Of the view over two streams, the orders of the second, and its text.
UNITED = [row for row in ROWS if row[0].startswith("`") and len(row) == 3]
ORDERS = [row for row in ROWS if re.fullmatch(r"o\d", row[0])]
(UNION,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2024-02-29T{text}")


def cell(column: str, text: str) -> Any:
    if text == "NULL":
        return None
    readers: dict[str, Any] = {"price": Decimal, "stock": int, "score": float}
    return readers.get(column, str)(text)


def events() -> pa.Table:
    columns = ("item", "action", "price", "stock", "score")
    rows = [
        {"user_id": 1, "shop": "s", "event_time": moment(row[1])}
        | {name: cell(name, text) for name, text in zip(columns, row[2:], strict=True)}
        for row in EVENTS
    ]
    return with_positions(pa.Table.from_pylist(rows, schema=SCHEMA.arrow))


def view(aggregate: str, frame: str) -> StreamView:
    over = aggregate if "OVER w" in aggregate else f"{aggregate} OVER w"
    frame = frame if " AND " in frame else f"{frame} PRECEDING AND CURRENT ROW"
    window = f"PARTITION BY user_id ORDER BY event_time {frame}"
    return view_of(f"SELECT user_id, {over} AS value FROM events WINDOW w AS ({window})", SCHEMA, 3_600_000_000)


def united(aggregate: str) -> StreamView:
    """The page's view over two streams."""
    orders = pa.schema(
        {"buyer": pa.int64(), "item": pa.string(), "cents": pa.int32(), "ordered_at": pa.timestamp("us")}
    )
    streams = {
        name: Stream(TableSchema(name, f"sql/{name}.sql", 1, schema), name, time, key, 3_600_000_000, 0)
        for name, schema, time, key in (
            ("events", SCHEMA.arrow, "event_time", "user_id"),
            ("orders", orders, "ordered_at", "buyer"),
        )
    }
    source = Source("sql/view.sql", UNION.replace("value_below", aggregate))
    binder = Binder({name: stream.schema.arrow for name, stream in streams.items()})
    return parse_stream_view("view", source, streams, binder)


def shown(value: Any) -> str:
    return re.sub(r"Decimal\('([^']*)'\)", r"\1", str(value) if not isinstance(value, list) else repr(value))


def test_the_page_has_examples() -> None:
    assert len(EVENTS) == 5
    assert len(EXAMPLES) > 40
    assert (len(UNITED), len(ORDERS)) == (6, 3)


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: f"{row[0]} {row[1]} {row[2]}")
def test_an_example(row: list[str]) -> None:
    aggregate, frame, at, value = row[0].strip("`"), row[1], row[2], row[-1]
    if frame.startswith("refused"):
        written = frame.partition("`")[2].rstrip("`") or "RANGE BETWEEN INTERVAL 1 MINUTE"
        with pytest.raises(DefinitionError, match=re.escape(value)):
            view(aggregate, written)
        return
    wanted = view(aggregate, frame.strip("`"))
    asked = pa.table({"user_id": [1], "request_time": pa.array([moment(at)], pa.timestamp("us"))})
    (batch,) = evaluate_view(wanted, events(), asked).values["value"].to_pylist()
    replay = ViewReplay(wanted)
    replay.apply(events())
    # Requests before the lateness are not answered; the page's are, but for one far in the past.
    got = replay.values(asked)
    assert shown(batch) == value
    assert shown(got.values["value"].to_pylist()[0]) == (value if got.answerable[0] else "None")


@pytest.mark.parametrize("row", UNITED, ids=lambda row: f"{row[0]} {row[1]}")
def test_an_example_of_two_streams(row: list[str]) -> None:
    wanted = united(row[0].strip("`"))
    rows = [
        {"buyer": 1, "ordered_at": moment(at), "item": item, "cents": None if cents == "NULL" else int(cents)}
        for _, at, item, cents in ORDERS
    ]
    orders = with_positions(pa.Table.from_pylist(rows, schema=wanted.reads[1].stream.schema.arrow))
    asked = pa.table({"user_id": [1], "request_time": pa.array([moment(row[1])], pa.timestamp("us"))})
    batch = evaluate_view(wanted, {"events": events(), "orders": orders}, asked).values["value"].to_pylist()
    replay = ViewReplay(wanted)
    replay.apply(orders, branch=1)
    replay.apply(events(), branch=0)
    assert shown(batch[0]) == shown(replay.values(asked).values["value"].to_pylist()[0]) == row[2]
