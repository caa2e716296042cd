"""Hypothesis strategies for the whole language: schemas, definitions, event logs and requests.

Definitions are SQL text, as an author writes it. Times are small multiples of half a second around the origin of
``time_bucket``, so that ties, bucket edges and window edges are common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st

from dovetail.features.duck.binding import Binder
from dovetail.features.language.source import Source
from dovetail.features.language.streaming_views import parse_stream_view
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.platform.rows.schema import TableSchema

ORIGIN = 946_857_600_000_000
UNIT = 500_000

TYPES: Mapping[str, pa.DataType] = {
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "TINYINT": pa.int8(),
    "DECIMAL(9,2)": pa.decimal128(9, 2),
    "DECIMAL(18,0)": pa.decimal128(18, 0),
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "FLOAT": pa.float32(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
}
_ADDED = ("BIGINT", "INTEGER", "TINYINT", "DECIMAL(9,2)", "DECIMAL(18,0)")
_SQUARED = ("INTEGER", "TINYINT", "DECIMAL(9,2)")
_KEYS = tuple(name for name in TYPES if name not in ("DOUBLE", "FLOAT"))
_ORDERS = tuple(name for name in TYPES if name != "VARCHAR")

_VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "BIGINT": st.integers(-3, 3) | st.sampled_from((-(2**63), 2**63 - 1, 2**53 + 1)),
    "INTEGER": st.integers(-3, 3) | st.sampled_from((-(2**31), 2**31 - 1)),
    "TINYINT": st.integers(-3, 3) | st.sampled_from((-128, 127)),
    "DECIMAL(9,2)": st.integers(-300, 300).map(lambda c: Decimal(c).scaleb(-2))
    | st.sampled_from((Decimal("9999999.99"), Decimal("-9999999.99"))),
    "DECIMAL(18,0)": st.integers(-3, 3).map(Decimal) | st.sampled_from((Decimal(10**18 - 1), Decimal(1 - 10**18))),
    "VARCHAR": st.sampled_from(("a", "b", "", "ä", "a\0b", "long " * 9)) | st.text(max_size=3),
    "DOUBLE": st.floats() | st.sampled_from((0.0, -0.0)),
    "FLOAT": st.floats(width=32) | st.sampled_from((0.0, -0.0)),
    "BOOLEAN": st.booleans(),
    "DATE": st.integers(-3, 3) | st.integers(-40_000, 40_000),
    "TIMESTAMP": st.integers(-3, 3) | st.integers(-(10**15), 10**15),
}


@dataclass(frozen=True)
class Schema:
    """Columns by name with their SQL types; ``user_id``, ``shop`` and ``event_time`` are always there."""

    columns: Mapping[str, str]

    def of(self, *types: str) -> list[str]:
        """The columns of these types."""
        return [name for name, type_ in self.columns.items() if type_ in types]

    def added(self) -> list[tuple[str, str]]:
        """The columns that can be added, and their types."""
        return [(name, type_) for name, type_ in self.columns.items() if type_ in _ADDED]

    @property
    def arrow(self) -> pa.Schema:
        fields = [pa.field(name, TYPES[type_]) for name, type_ in self.columns.items()]
        keys = [pa.field("user_id", pa.int64()), pa.field("shop", pa.string())]
        return pa.schema([*keys, *fields, pa.field("event_time", pa.timestamp("us"), nullable=False)])

    @property
    def others(self) -> pa.Schema:
        """The second stream: the same columns in the opposite order, its event time called otherwise."""
        fields = [field.with_name("at") if field.name == "event_time" else field for field in self.arrow]
        return pa.schema(reversed(fields))


@dataclass(frozen=True)
class Case:
    """A definition, its plan, events with positions in order of arrival, and what is asked.

    ``events`` are those of both streams, as of the first; ``_stream`` is 1 where one is of the second.
    """

    sql: str
    view: StreamView
    events: pa.Table
    probes: pa.Table

    def given(self, events: pa.Table | None = None) -> dict[str, pa.Table]:
        """``events`` (default: all), by stream, as they arrive there."""
        return by_stream(self.events if events is None else events)


def by_stream(events: pa.Table) -> dict[str, pa.Table]:
    """The events of both streams, apart."""
    mine = events.drop_columns(["_stream"])
    names = ["at" if name == "event_time" else name for name in mine.column_names]
    declared = [name for name in names if not name.startswith("_")]
    positions = ["_partition", "_offset", "_row"]
    second = pc.equal(events.column("_stream"), 1)
    others = mine.filter(second).rename_columns(names).select([*reversed(declared), *positions])
    return {"events": mine.filter(pc.invert(second)), "others": others}


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Up to six columns of any type, one of a kind that can be added among them."""
    types = draw(st.lists(st.sampled_from(tuple(TYPES)), max_size=5))
    return Schema({f"c{i}": type_ for i, type_ in enumerate([draw(st.sampled_from(_ADDED)), *types])})


@st.composite
def frames(draw: st.DrawFn, *, rows: bool = True) -> str:
    """Any frame of the language."""
    size, step = draw(st.sampled_from((0, 5, 20, 60, 120))) * 500, draw(st.integers(1, 12)) * 500
    ends = [f"INTERVAL '{end * 500} milliseconds' PRECEDING" for end in (0, 5, 7, 20) if end * 500 <= size]
    ends += ["INTERVAL 1 MICROSECOND PRECEDING", "CURRENT ROW EXCLUDE TIES", "CURRENT ROW EXCLUDE GROUP"] * (size > 0)
    end = draw(st.sampled_from((*["CURRENT ROW"] * len(ends), *ends)))
    kinds = [
        f"RANGE BETWEEN INTERVAL '{size} milliseconds' PRECEDING AND {end}",
        f"RANGE BETWEEN INTERVAL '{size + 1} milliseconds' - INTERVAL 1 MICROSECOND PRECEDING AND {end}",
        f"RANGE BETWEEN hop(event_time, INTERVAL '{size} ms', INTERVAL '{step} ms') PRECEDING AND {end}",
        f"RANGE BETWEEN UNBOUNDED PRECEDING AND {end}",
    ]
    kinds.append(kinds[2])  # most of what states do, they do for these
    if rows:
        number = draw(st.integers(1, 4))
        last = draw(st.sampled_from(("CURRENT ROW", f"{draw(st.integers(1, number))} PRECEDING")))
        kinds.append(f"ROWS BETWEEN {number} PRECEDING AND {last}")
    return draw(st.sampled_from(kinds))


@st.composite
def conditions(draw: st.DrawFn, schema: Schema) -> str:
    """A condition over the event's columns, NULL included."""
    column = draw(st.sampled_from(list(schema.columns)))
    options = [f"{column} IS NOT NULL", "shop = 'a'", "shop <> 'b' OR user_id > 1", "user_id IS NULL OR shop IS NULL"]
    numbers = schema.of(*_ADDED)
    return draw(st.sampled_from([*options, f"{numbers[0]} > 0", f"CASE WHEN {numbers[0]} < 0 THEN shop = 'a' END"]))


@st.composite
def aggregates(draw: st.DrawFn, schema: Schema, window: str, keys: str = "user_id", *, elements: bool = True) -> str:
    """Any aggregate over ``window``, with or without FILTER; ``elements`` of lists only where no rows are counted."""
    filtered = f"FILTER (WHERE {draw(conditions(schema))}) " if draw(st.booleans()) else ""
    over = f"OVER {window}"

    def one(*types: str) -> str | None:
        found = schema.of(*types)
        return draw(st.sampled_from(found)) if found else None

    added, squared, any_ = one(*_ADDED), one(*_SQUARED), one(*TYPES)
    key, order = one(*_KEYS) or "shop", one(*_ORDERS) or "user_id"
    exact = one(*(name for name in _KEYS if name != "VARCHAR")) or "user_id"
    struct = f"{{'a': {one(*TYPES)}, 'b': {one(*TYPES)}, 'c d': shop}}"
    listed = f"CASE WHEN shop = 'a' THEN [{key}, NULL, {key}] WHEN shop <> 'b' THEN [] ELSE [{key}] END"
    array = f"CASE WHEN shop <> 'b' THEN CAST([{added}, 0] AS {schema.columns[added or 'c0']}[2]) END"
    outer, inner = draw(st.sampled_from(("avg", "max", "median"))), draw(st.sampled_from(("sum_by", "avg_by")))
    k, nulls = draw(st.integers(1, 3)), draw(st.sampled_from(("", " IGNORE NULLS")))
    options = [
        f"count(*) {filtered}{over}",
        f"count({any_}) {filtered}{over}",
        f"sum({added}) {filtered}{over}",
        f"sum(CASE WHEN shop = 'a' THEN {added} END) {filtered}{over}",
        f"avg({added}) {filtered}{over}",
        f"{draw(st.sampled_from(('min', 'max')))}({any_}) {filtered}{over}",
        f"{draw(st.sampled_from(('min', 'max')))}(shop) {filtered}{over}",
        f"{draw(st.sampled_from(('first', 'last')))}({any_}{nulls}) {over}",
        f"{draw(st.sampled_from(('arg_min', 'max_by')))}({any_}, {order}) {filtered}{over}",
        f"{draw(st.sampled_from(('arg_min', 'arg_max')))}({any_}, event_time, {k}) {filtered}{over}",
        f"{draw(st.sampled_from(('arg_min', 'arg_max')))}({any_}, {order}, {k}) {filtered}{over}",
        f"arg_max({struct}, event_time, {k}) {filtered}{over}",
        f"{draw(st.sampled_from(('arg_min', 'arg_max')))}({struct}, {order}, {k}) {filtered}{over}",
        f"{draw(st.sampled_from(('first', 'last')))}({struct}{nulls}) {over}",
        f"newest(list(CASE WHEN shop = 'a' THEN {struct} END) {filtered}{over}, {k})",
        f"list_transform(arg_max({struct}, event_time, {k}) {over}, lambda x: x.b)",
        f"nth_value({any_}, {k}{draw(st.sampled_from(('', ' ORDER BY event_time DESC')))}{nulls}) {over}",
        f"lag({any_}, {k}{nulls}) OVER (PARTITION BY {keys} ORDER BY event_time)",
        f"newest(list({any_}) {filtered}{over}, {k})",
        f"list_sum(newest(list({added}) {filtered}{over}, {k}))",
        f"count(DISTINCT {key}) {filtered}{over}",
        f"histogram({key}) {filtered}{over}",
        f"top_k(histogram({key}) {filtered}{over}, {k})",
        f"{draw(st.sampled_from(('first_distinct', 'last_distinct')))}(list({key}) {filtered}{over}, {k})",
        f"{draw(st.sampled_from(('sum_by', 'avg_by')))}(list({{'k': {key}, 'v': {added}}}) {filtered}{over})",
        f"{draw(st.sampled_from(('least_by', 'greatest_by')))}(list({{'k': {key}, 'v': {exact}}}) {filtered}{over})",
        f"top_k({draw(st.sampled_from(('sum_by', 'least_by')))}(list({{'k': {key}, 'v': {added}}}) {over}), {k})",
        f"{draw(st.sampled_from(('sum_each', 'avg_each')))}(list({array}) {filtered}{over})",
        f"list_{outer}(map_values({inner}(list({{'k': {key}, 'v': {added}}}) {filtered}{over})))",
        f"list_avg(map_values(histogram({key}) {filtered}{over}))",
        f"entropy({key}) {filtered}{over}",
        f"{draw(st.sampled_from(('skewness', 'kurtosis', 'kurtosis_pop')))}({added}) {filtered}{over}",
        f"count(*) {filtered}{over} / nullif(count({any_}) {over}, 0)",
        f"coalesce(CAST(avg({added}) {over} AS DOUBLE), -1) + count(*) {over}",
        f"max(shop) {over} || '!'",
        f"len(arg_max({any_}, event_time, {k}) {over})",
    ]
    if elements:
        options.append(f"histogram_each(list({listed}) {filtered}{over})")
        options.append(f"top_k(histogram_each(list({listed}) {filtered}{over}), {k})")
    if squared is not None:
        function = draw(st.sampled_from(("stddev", "stddev_pop", "variance", "var_pop")))
        options += [f"{function}({squared}) {filtered}{over}"] * 2
    return draw(st.sampled_from(options))


@st.composite
def definitions(draw: st.DrawFn, schema: Schema, *, rows: bool = True, twice: bool = True) -> str:
    """The text of a streaming view."""
    keys = draw(st.sampled_from(("user_id", "user_id, shop")))
    windows = [draw(frames(rows=rows)) for _ in range(draw(st.integers(1, 3)))]
    columns = []
    for i in range(draw(st.integers(3, 8))):
        number = draw(st.integers(0, len(windows) - 1))
        elements = not windows[number].startswith("ROWS")
        columns.append(f"{draw(aggregates(schema, f'w{number}', keys, elements=elements))} AS f{i}")
    where = draw(wheres(schema)) + "\n"
    named = ",\n       ".join(
        f"w{i} AS (PARTITION BY {keys} ORDER BY event_time\n            {frame})" for i, frame in enumerate(windows)
    )
    listed = ",\n       ".join([keys, *columns])
    text = f"SELECT {listed}\nFROM @\n{where}WINDOW {named}"
    form = draw(st.integers(0, 4))
    if form == 0:
        return text.replace("@", "events")
    inner = draw(relations(schema, twice=twice))
    if form == 1:
        return text.replace("@", f"({inner}) AS cleaned")
    if form == 2:
        return f"WITH cleaned AS ({inner})\n" + text.replace("@", "cleaned")
    if form == 3:
        after = f"SELECT {draw(cleaned_columns(schema))} FROM first {draw(wheres(schema))}"
        return f"WITH first AS ({inner}),\n     second AS ({after})\n" + text.replace("@", "second AS cleaned")
    last = f"SELECT {draw(cleaned_columns(schema))} FROM shared AS s UNION ALL SELECT * FROM shared"
    return f"WITH shared AS ({inner})\n" + text.replace("@", f"({last if twice else 'FROM_SHARED'})").replace(
        "FROM_SHARED", "SELECT * FROM shared"
    )


@st.composite
def wheres(draw: st.DrawFn, schema: Schema) -> str:
    """A WHERE clause, or none."""
    return f"WHERE {draw(conditions(schema))}" if draw(st.booleans()) else ""


@st.composite
def relations(draw: st.DrawFn, schema: Schema, *, twice: bool) -> str:
    """SELECTs over the streams, nested and put together; ``twice`` lets an event count more than once."""
    kinds = st.sampled_from((("events",), ("events", "others"), ("others", "events")))
    streams = draw(kinds | st.lists(st.sampled_from(("events", "others")), min_size=2, max_size=3) if twice else kinds)
    branches = []
    for number, stream in enumerate(streams):
        if stream == "events":
            text = f"SELECT {draw(cleaned_columns(schema))} FROM events AS e {draw(wheres(schema))}"
        else:
            columns = draw(cleaned_columns(schema, star=False))
            text = f'SELECT {columns.removesuffix("event_time")}"at" AS event_time FROM others {draw(wheres(schema))}'
        for _ in range(draw(st.integers(0, 2))):
            text = f"SELECT {draw(cleaned_columns(schema))} FROM ({text}) AS x {draw(wheres(schema))}"
        if number and draw(st.booleans()):  # names are the first SELECT's
            text = f"(SELECT user_id AS u, shop AS s, * EXCLUDE (user_id, shop) FROM ({text}))".replace(
                "* EXCLUDE (user_id, shop)", ", ".join([*schema.columns, "event_time"])
            )
        branches.append(text)
    united = "\n      UNION ALL ".join(branches)
    if draw(st.booleans()):
        return f"SELECT {draw(cleaned_columns(schema))} FROM ({united}) {draw(wheres(schema))}"
    return united


@st.composite
def cleaned_columns(draw: st.DrawFn, schema: Schema, *, star: bool = True) -> str:
    """The columns of the schema, some of them made anew from others, of the same type."""
    made = []
    for name, type_ in schema.columns.items():
        other = draw(st.sampled_from(schema.of(type_)))
        options = [name, f"{other} AS {name}", f"CASE WHEN shop = 'a' THEN {name} ELSE {other} END AS {name}"]
        made.append(draw(st.sampled_from([*options, f"TRY_CAST(CAST({other} AS VARCHAR) AS {type_}) AS {name}"])))
    listed = ", ".join(["user_id", "shop", *made, "event_time"])
    return draw(st.sampled_from(("*", listed))) if star else listed


def view_of(sql: str, schema: Schema, lateness_us: int = 0, *, strictly_before: bool = False) -> StreamView:
    """The plan of ``sql`` over a stream of ``schema``."""
    stream = Stream(TableSchema("events", "sql/events.sql", 1, schema.arrow), "events", "event_time", "user_id",
                    lateness_us, 0)  # fmt: skip
    other = Stream(TableSchema("others", "sql/others.sql", 1, schema.others), "others", "at", "user_id",
                   lateness_us, 0)  # fmt: skip
    source = Source("sql/view.sql", sql)
    streams = {"events": stream, "others": other}
    binder = Binder({"events": schema.arrow, "others": schema.others})
    return parse_stream_view("view", source, streams, binder, strictly_before=strictly_before)


@st.composite
def logs(
    draw: st.DrawFn, schema: Schema, *, max_rows: int = 24, ties: bool = True, streams: int = 1, lateness: int = 0
) -> pa.Table:
    """Events in order of arrival with their positions, over up to three partitions of each of ``streams``; some twice,
    many at one time.

    Half the logs come at most ``lateness`` late, whatever the stream, so that state behind the watermark is folded
    while the log goes on; in the others rows meet what is folded. Some have one partition, so that a key has one state,
    and some hardly more than one moment.
    """
    partitions, spread = draw(st.sampled_from((1, 3))), draw(st.sampled_from((30, 30, 3)))
    row = st.fixed_dictionaries(
        {
            "user_id": st.sampled_from((1, 1, 1, 1, 1, 1, 2, None)),
            "shop": st.sampled_from(("a", "a", "a", "a", "a", "b", None)),
            **{name: st.none() | _VALUES[type_] for name, type_ in schema.columns.items()},
            "event_time": st.integers(-spread, spread).map(lambda n: ORIGIN + n * UNIT),
            "_partition": st.integers(0, partitions - 1),
            "_stream": st.integers(0, streams - 1),
        }
    )
    delay = st.integers(0, lateness).map(lambda n: n * UNIT)
    # Long logs of one key: an example with two events in a window says more than ten with one.
    rows = draw(st.lists(row, min_size=draw(st.sampled_from((18, 18, 12, 0))), max_size=max_rows))
    if draw(st.booleans()):  # which rows were chosen, and in which order, shows only where their values differ
        for number, found in enumerate(rows):
            found.update({name: Decimal(number) if type_[:3] == "DEC" else number for name, type_ in schema.added()})
    if not ties:
        rows = list({row["event_time"]: row for row in rows}.values())
    if draw(st.booleans()):
        arrived: list[Any] = [row["event_time"] for row in rows]
        arrived = [time + draw(delay) for time in arrived]
        rows = [rows[n] for n in sorted(range(len(rows)), key=arrived.__getitem__)]
    if rows and ties and draw(st.booleans()):
        rows.append(dict(draw(st.sampled_from(rows))))
    for offset, found in enumerate(rows):
        found["_offset"], found["_row"] = offset // 2, offset % 2
    types = [pa.field("_partition", pa.int32()), pa.field("_offset", pa.int64()), pa.field("_row", pa.int32())]
    types.append(pa.field("_stream", pa.int8()))
    return pa.Table.from_pylist(rows, schema=pa.schema([*schema.arrow, *types]))


@st.composite
def requests(draw: st.DrawFn, view: StreamView, events: pa.Table) -> pa.Table:
    """Keys and times asked for: unknown and missing keys among them, times at which an event enters or leaves, and the
    earliest that is still answered."""
    sizes = [0, *(size for w in view.windows for size in (w.size_us, w.step_us or 0, w.end_us))]
    if view.stream.allowed_lateness_us < 1_000 * UNIT:
        sizes.append(-view.stream.allowed_lateness_us)
    times = events.column("event_time").cast(pa.int64()).to_pylist()
    keys = events.select(["user_id", "shop"]).to_pylist()

    def beside(event: int, size: int, apart: int) -> dict[str, Any]:
        return {**keys[event], "request_time": times[event] + size + apart}

    anywhere = st.fixed_dictionaries(
        {
            "user_id": st.sampled_from((1, 2, 3, None)),
            "shop": st.sampled_from(("a", "a", "a", "b", None)),
            "request_time": st.integers(-10, 40).map(lambda n: ORIGIN + n * UNIT),
        }
    )
    row = anywhere
    if times:
        which = st.integers(0, len(times) - 1) | st.just(times.index(max(times)))
        edge = st.builds(beside, which, st.sampled_from(sizes), st.sampled_from((0, 0, 0, 1, -1)))
        row = st.one_of(edge, edge, edge, anywhere)
    types = {"user_id": pa.int64(), "shop": pa.string(), "request_time": pa.timestamp("us")}
    return pa.Table.from_pylist(draw(st.lists(row, min_size=6, max_size=10)), schema=pa.schema(types))


def cuts(rows: int) -> st.SearchStrategy[list[int]]:
    """Where a log of so many rows is cut into polls: every row or few, so that states are merged often, or anywhere."""
    regular = st.sampled_from((1, 1, 3)).map(lambda step: list(range(step, rows, step)))
    return st.one_of(regular, regular, st.lists(st.integers(0, rows), max_size=3).map(sorted))


@st.composite
def cases(draw: st.DrawFn, *, rows: bool = True, ties: bool = True, lateness: int | None = None) -> Case:
    """A definition from the whole language, and what happened and is asked."""
    schema = draw(schemas())
    sql = draw(definitions(schema, rows=rows, twice=ties))
    allowed = draw(st.sampled_from((0, 1, 4, 10, 30, 80))) if lateness is None else lateness
    view = view_of(sql, schema, allowed * UNIT, strictly_before=draw(st.sampled_from((False, False, True))))
    streams = 1 + ("others" in view.stream_names)
    events = draw(logs(schema, ties=ties, streams=streams, lateness=min(allowed, 20)))
    return Case(sql, view, events, draw(requests(view, events)))
