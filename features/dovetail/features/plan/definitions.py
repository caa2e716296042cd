"""The definitions, understood and free of any engine: the plan that both engines execute.

``language/`` makes these from ``sql/``; ``batch/`` runs them in DuckDB, ``stream/`` keeps them incrementally.
All times and durations are microseconds since 1970-01-01 UTC, int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from dovetail.platform.rows.schema import TableSchema

__all__ = [
    "REQUEST",
    "TIME_BUCKET_ORIGIN_US",
    "Aggregate",
    "AggregateFunction",
    "BatchView",
    "Branch",
    "Cleaning",
    "Definitions",
    "Derived",
    "FeatureColumn",
    "FeatureSet",
    "Input",
    "JoinedView",
    "Stream",
    "StreamView",
    "Table",
    "Window",
]

#: The relation of requests in SQL: what ``FROM request`` names.
REQUEST = "request"
#: DuckDB's ``time_bucket`` counts from Monday 2000-01-03 00:00:00 UTC (intervals without months).
TIME_BUCKET_ORIGIN_US = 946_857_600_000_000

AggregateFunction = Literal[
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "var_samp",
    "var_pop",
    "stddev_samp",
    "stddev_pop",
    "first",
    "last",
    "arg_min",
    "arg_max",
    "count_distinct",
    "first_distinct",
    "last_distinct",
    "nth_oldest",
    "nth_newest",
    "newest",
    "histogram",
    "top_k",
    "histogram_each",
    "entropy",
    "skewness",
    "kurtosis",
    "kurtosis_pop",
    "sum_by",
    "avg_by",
    "least_by",
    "greatest_by",
]


@dataclass(frozen=True, slots=True)
class Stream:
    """An event stream: schema, event-time column and how late things may be (microseconds).

    A view's own relation, which is no declared stream, has no topic and no key. ``rekeyed_from`` names the stream that
    a re-keyed one is made of; its rows carry source positions and may be published again (``rekeying.py``).
    They have the columns of the views ``enriched``, too: of batch views as of their event time, of streaming views over
    the stream they are made of as of themselves (``at_events/``). ``made_in``: the files of the views that columns are
    of, of those that the stream it is made of has, too.
    """

    schema: TableSchema
    topic: str
    event_time: str
    key: str
    allowed_lateness_us: int
    max_ahead_us: int
    rekeyed_from: str | None = None
    enriched: tuple[BatchView | StreamView, ...] = ()
    made_in: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The stream's name in SQL."""
        return self.schema.name


@dataclass(frozen=True, slots=True)
class Window:
    """The events of its key that a value at time T is made of; all have ``event_time <= T - end_us``.

    - ``RANGE BETWEEN <size> PRECEDING AND <end> PRECEDING``: ``T - size_us <= event_time``; ``CURRENT ROW`` is an
      ``end_us`` of 0;
    - ``hop(event_time, size, step)``, when ``step_us`` is set: the same with the bound rounded down to a step;
    - ``RANGE BETWEEN UNBOUNDED PRECEDING …``, when ``unbounded``: all (``size_us`` is 0);
    - ``ROWS BETWEEN n PRECEDING AND m PRECEDING``, when ``rows`` is set: the last n of the total order without the
      last ``skip`` (m - 1; 0 for ``CURRENT ROW``), before FILTER.
    """

    name: str
    size_us: int
    step_us: int | None
    unbounded: bool = False
    rows: int | None = None
    end_us: int = 0
    skip: int = 0

    @property
    def bounded_us(self) -> bool:
        """Whether a duration says where the window begins."""
        return not self.unbounded and self.rows is None

    def lower_bound(self, time_us: int) -> int:
        """First event time inside the window at ``time_us``; the least int64 where no duration says so."""
        if not self.bounded_us:
            return -(1 << 63)
        if self.step_us is None:
            return time_us - self.size_us
        since = time_us - self.size_us - TIME_BUCKET_ORIGIN_US
        return since // self.step_us * self.step_us + TIME_BUCKET_ORIGIN_US

    def strictly_before(self) -> Window:
        """The window that holds at T what this one holds a microsecond before T."""
        return replace(self, size_us=self.size_us + self.bounded_us, end_us=self.end_us + 1)


@dataclass(frozen=True, slots=True)
class Input:
    """The argument and filter that aggregates read of an event, as DuckDB SQL over the stream's columns.

    ``argument`` None is ``count(*)``. An event counts for the input when the filter is true and the argument not NULL.
    ``type`` is the argument's Arrow type (int64 for ``count(*)``).
    """

    argument: str | None
    filter: str | None
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One window aggregate: ``function`` of ``inputs[input]`` over ``windows[window]``.

    ``type`` is the result's Arrow type: int64 for counts, decimal128(38, s) for sum, float64 for avg, deviations and
    shapes, the argument's type where a value is picked, a list or a map of it where several are. ``by`` is the input
    that orders ``arg_min``/``arg_max`` or is folded per value of ``input`` (``sum_by`` …). ``k`` is how many
    are listed, or for ``nth_oldest`` and ``nth_newest`` which is picked; None where the first is. With ``nulls`` an
    event counts although its argument is NULL.
    """

    output: str
    function: AggregateFunction
    input: int
    window: int
    type: pa.DataType
    by: int | None = None
    k: int | None = None
    nulls: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """An output computed from finished aggregates: SQL over their ``output`` names, and the type DuckDB binds it to."""

    output: str
    sql: str
    type: pa.DataType
    line: int


@dataclass(frozen=True, slots=True)
class Cleaning:
    """One SELECT between a stream and the view that reads it: of each row at most one, whatever the others are.

    ``columns`` are ``(name, SQL)`` and ``where`` a condition, both over rows of schema ``reads``, and only rows that
    pass have values; ``gives`` is the schema of what comes out, its names those of ``columns``.
    """

    columns: tuple[tuple[str, str], ...]
    where: str | None
    reads: pa.Schema
    gives: pa.Schema


@dataclass(frozen=True, slots=True)
class Branch:
    """One SELECT of the UNION ALL that a view reads, or the only one: a stream, and its events' cleanings in turn.

    ``stream`` is as declared. One stream may be read by several branches; each counts its events.
    """

    stream: Stream
    cleanings: tuple[Cleaning, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamView:
    """A streaming feature view: aggregates over windows of one relation, per entity.

    ``stream`` is that relation: a declared stream, or what ``branches`` make of theirs, as if it were one stream; all
    but ``branches`` is about its columns. ``where`` is the view's WHERE clause as SQL, or None. ``sql`` is the
    statement as written. ``outputs`` names what the view gives, in the order written: aggregates and ``derived``
    expressions; empty means every aggregate. ``state_mark`` is the mark that its stored states bear, where they were
    begun when a column was declared narrower; None is the layout's own. ``strictly_before`` says that the probe stands
    a microsecond before the request; ``windows`` are as seen from the request.
    """

    name: str
    file: str
    line: int
    sql: str
    stream: Stream
    entity: tuple[str, ...]
    where: str | None
    windows: tuple[Window, ...]
    inputs: tuple[Input, ...]
    aggregates: tuple[Aggregate, ...]
    derived: tuple[Derived, ...] = ()
    outputs: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    state_mark: int | None = None
    strictly_before: bool = False

    @property
    def reads(self) -> tuple[Branch, ...]:
        """The branches that the view reads, in the order of its UNION ALL: at least one."""
        return self.branches or (Branch(self.stream),)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams that the view reads, each once."""
        return tuple(dict.fromkeys(branch.stream.name for branch in self.reads))

    @property
    def retention_us(self) -> int | None:
        """How far the watermark must be beyond a key's newest event for its state to be of no more use; None: for ever.

        A request that is still answered exactly is at most ``allowed_lateness`` behind the watermark, and looks back a
        window, its tail rounded to a step.
        """
        if not all(window.bounded_us for window in self.windows):
            return None
        longest = max(window.size_us + (window.step_us or 0) for window in self.windows)
        return self.stream.allowed_lateness_us + longest

    @property
    def entity_types(self) -> tuple[pa.DataType, ...]:
        """Arrow types of the entity columns."""
        return tuple(self.stream.schema.arrow.field(column).type for column in self.entity)

    @property
    def output_schema(self) -> pa.Schema:
        """The value columns, without the entity."""
        types = {aggregate.output: aggregate.type for aggregate in self.aggregates}
        types |= {derived.output: derived.type for derived in self.derived}
        return pa.schema([pa.field(name, types[name]) for name in self.outputs or types])

    @property
    def aggregate_schema(self) -> pa.Schema:
        """The columns that the engines compute before ``derived``: every aggregate."""
        return pa.schema([pa.field(a.output, a.type) for a in self.aggregates])


@dataclass(frozen=True, slots=True)
class Table:
    """A declared offline table: Parquet at ``path``, rows known from ``available_at`` on."""

    schema: TableSchema
    path: str
    available_at: str


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch feature view: a SELECT over offline tables, run for every multiple of ``every_us``.

    ``output_schema`` are the value columns, without the entity; ``entity_types`` the Arrow types of the entity columns.
    """

    name: str
    file: str
    line: int
    sql: str
    tables: tuple[Table, ...]
    entity: tuple[str, ...]
    every_us: int
    output_schema: pa.Schema
    entity_types: tuple[pa.DataType, ...]


@dataclass(frozen=True, slots=True)
class JoinedView:
    """``LEFT JOIN view USING (entity)`` in a feature set."""

    view: str
    kind: Literal["streaming", "batch"]
    entity: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One output column of a feature set.

    ``sql`` is the expression as written. ``references`` are the ``(relation, column)`` pairs it reads; the relation is
    ``request`` or a view's name. ``origin``: ``key`` (request_id, item_id), ``request`` (request columns only),
    ``streaming`` (at least one streaming view) or ``batch`` (a batch view, possibly with request columns).
    ``lane`` is where it is computed at request time: compiled Arrow kernels, or DuckDB on the micro-batch.
    ``resolved`` is what is run: ``sql`` over :attr:`FeatureSet.inputs`, every column named as there.
    """

    name: str
    sql: str
    line: int
    references: tuple[tuple[str, str], ...]
    origin: Literal["key", "request", "streaming", "batch"]
    lane: Literal["compiled", "duckdb"]
    type: pa.DataType
    resolved: str


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The features of a model: ``SELECT … FROM request LEFT JOIN view USING (…) …``.

    ``inputs`` is the schema of the rows its expressions read: the flat request's columns, then each joined view's
    value columns, named ``<view>.<column>``. ``request_columns`` are those of them that the request has once, for all
    its candidates. ``over`` is the table that declares the request; references call it ``request``, whatever its name.
    """

    name: str
    file: str
    line: int
    sql: str
    joins: tuple[JoinedView, ...]
    columns: tuple[FeatureColumn, ...]
    inputs: pa.Schema
    request_columns: tuple[str, ...] = ()
    over: str = REQUEST

    @property
    def schema(self) -> pa.Schema:
        """All output columns, in the order written."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    def columns_of(self, *origins: str) -> tuple[FeatureColumn, ...]:
        """The columns with one of these origins, in the order written."""
        return tuple(c for c in self.columns if c.origin in origins)

    def is_shared(self, join: JoinedView) -> bool:
        """Whether a joined view has one value for all candidates of a request."""
        return set(join.entity) <= set(self.request_columns)

    def shared_columns(self) -> tuple[FeatureColumn, ...]:
        """The columns that read nothing of a candidate: one value for all candidates of a request."""
        views = {join.view for join in self.joins if self.is_shared(join)}
        return tuple(
            column
            for column in self.columns
            if all(
                name in self.request_columns if owner == REQUEST else owner in views
                for owner, name in column.references
            )
        )


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that ``sql/`` declares, checked against ``dovetail.toml``; names are as declared.

    ``request`` declares the requests of one scene, ``requests`` by table those of all.
    """

    streams: Mapping[str, Stream]
    tables: Mapping[str, Table]
    request: TableSchema
    label_schemas: Mapping[str, TableSchema]
    stream_views: Mapping[str, StreamView]
    batch_views: Mapping[str, BatchView]
    feature_sets: Mapping[str, FeatureSet]
    requests: Mapping[str, TableSchema]

    @property
    def answering(self) -> Mapping[str, FeatureSet]:
        """The feature sets over :attr:`request`, which can answer it."""
        return {name: one for name, one in self.feature_sets.items() if one.over == self.request.name}
