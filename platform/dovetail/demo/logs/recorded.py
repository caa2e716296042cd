"""A recorded log: everything the outside world would have sent, with the time each message arrived.

The tables have the columns of their ``CREATE TABLE`` in ``sql/`` plus ``arrival_time``; a test holds the schemas below
and those files together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.errors import WireError

__all__ = [
    "ARRIVAL",
    "BEHAVIOUR_SCHEMA",
    "CANDIDATE_TYPE",
    "HOUR_US",
    "ITEM_SCHEMA",
    "LABEL_KINDS",
    "LABEL_SCHEMA",
    "MINUTE_US",
    "REQUEST_SCHEMA",
    "SECOND_US",
    "RecordedLog",
    "arrival_sorted",
    "make_table",
    "nest_candidates",
]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US

#: Name of the column saying when a message reached the broker; it orders the replay and is not part of the message.
ARRIVAL = "arrival_time"
#: The label streams every log has, possibly empty.
LABEL_KINDS = ("exposure", "click", "conversion")

_TIME = pa.timestamp("us")


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


CANDIDATE_TYPE = pa.struct(
    [pa.field("item_id", pa.int64()), pa.field("position", pa.int32()), pa.field("affinity", pa.float64())]
)
_ARRIVAL_FIELD = _required(ARRIVAL, _TIME)
BEHAVIOUR_SCHEMA = pa.schema(
    [
        _required("user_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("event_time", _TIME),
        _required("action", pa.string()),
        pa.field("price", pa.decimal128(12, 2)),
        _ARRIVAL_FIELD,
    ]
)
REQUEST_SCHEMA = pa.schema(
    [
        _required("request_id", pa.string()),
        _required("user_id", pa.string()),
        _required("request_time", _TIME),
        pa.field("segment", pa.string()),
        pa.field("channel", pa.string()),
        _required("candidates", pa.list_(CANDIDATE_TYPE)),
        _ARRIVAL_FIELD,
    ]
)
LABEL_SCHEMA = pa.schema(
    [
        _required("request_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("event_time", _TIME),
        _ARRIVAL_FIELD,
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        _required("item_id", pa.int64()),
        _required("available_at", _TIME),
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("score", pa.float64()),
    ]
)


@dataclass(frozen=True)
class RecordedLog:
    """A log to replay.

    ``events``, ``requests`` and the tables of ``labels`` (one per :data:`LABEL_KINDS`) are sorted by ``arrival_time``;
    ``items`` is the offline table, read before the replay starts. Times are microseconds UTC without a zone.
    """

    name: str
    events: pa.Table
    requests: pa.Table
    labels: dict[str, pa.Table]
    items: pa.Table
    #: How long after its request a label still counts, in this log.
    label_window_us: int
    #: How much arrival time the replay sends at once.
    slice_us: int
    #: What a reader of the results should know about where the log comes from and what it cannot say.
    notes: str

    @property
    def counts(self) -> dict[str, int]:
        """Rows: events, requests, snapshot rows (candidates of all requests), and labels by kind."""
        return {
            "events": self.events.num_rows,
            "requests": self.requests.num_rows,
            "snapshot_rows": int(pc.sum(pc.list_value_length(self.requests["candidates"])).as_py() or 0),
            **{kind: table.num_rows for kind, table in self.labels.items()},
        }

    @property
    def slices(self) -> int:
        """How many slices of ``slice_us`` the replay of all messages takes."""
        arrivals = [table[ARRIVAL].cast(pa.int64()) for _, table, _ in self._messages() if table.num_rows]
        if not arrivals:
            return 0
        first = min(column[0].as_py() for column in arrivals)
        last = max(column[-1].as_py() for column in arrivals)
        return int((last - first) // self.slice_us + 1)

    def check(self) -> RecordedLog:
        """This log, after making sure that it is what the class promises.

        Raises:
            WireError: a table's columns differ from its schema, a required column has NULLs, messages are not sorted
                by arrival, a label kind is missing, or an item has two rows with one ``available_at``.
        """
        if set(self.labels) != set(LABEL_KINDS):
            raise WireError(
                f"log {self.name!r}: label tables are {sorted(self.labels)}, need exactly {sorted(LABEL_KINDS)}; "
                "give an empty table for a kind the log does not have"
            )
        for name, table, schema in self._messages():
            self._check_columns(name, table, schema)
            arrivals = table[ARRIVAL].cast(pa.int64()).to_numpy()
            back = np.flatnonzero(np.diff(arrivals) < 0)
            if len(back):
                raise WireError(
                    f"log {self.name!r}, {name}, row {back[0] + 1}: arrives before the row in front of it; "
                    f"sort the table by {ARRIVAL} (arrival_sorted does)"
                )
        self._check_columns("items", self.items, ITEM_SCHEMA)
        versions = self.items.group_by(["item_id", "available_at"]).aggregate([])
        if versions.num_rows != self.items.num_rows:
            raise WireError(
                f"log {self.name!r}, items: {self.items.num_rows - versions.num_rows} rows share item_id and "
                "available_at with another, so which is newest is undecided; keep one of them"
            )
        return self

    def _messages(self) -> Iterator[tuple[str, pa.Table, pa.Schema]]:
        yield "events", self.events, BEHAVIOUR_SCHEMA
        yield "requests", self.requests, REQUEST_SCHEMA
        for kind, table in self.labels.items():
            yield f"labels[{kind!r}]", table, LABEL_SCHEMA

    def _check_columns(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        for position, expected in enumerate(schema):
            found = table.schema.field(position) if position < table.num_columns else None
            if found is None or not found.equals(expected):
                raise WireError(
                    f"log {self.name!r}, {name}, column {position}: found {found or 'nothing'}, need {expected}; "
                    "build the table with make_table"
                )
        if table.num_columns > len(schema):
            raise WireError(
                f"log {self.name!r}, {name}: unknown columns {table.column_names[len(schema) :]}; drop them"
            )
        for field in schema:
            if not field.nullable and (nulls := table[field.name].null_count):
                raise WireError(f"log {self.name!r}, {name}: {nulls} NULLs in {field.name}, which is NOT NULL")


def make_table(schema: pa.Schema, **columns: pa.Array | pa.ChunkedArray | npt.NDArray[np.generic]) -> pa.Table:
    """A table of exactly ``schema`` from columns by name; int64 microseconds become timestamps.

    Raises:
        pyarrow.ArrowInvalid: a column cannot be of its declared type without loss.
    """
    arrays = []
    for field in schema:
        column = columns[field.name]
        array = pa.array(column) if isinstance(column, np.ndarray) else column
        arrays.append(array.cast(field.type))
    return pa.table(arrays, schema=schema)


def arrival_sorted(table: pa.Table) -> pa.Table:
    """``table`` in order of arrival; rows that arrive together keep their order."""
    arrivals = table[ARRIVAL].cast(pa.int64()).to_numpy()
    return table.take(pa.array(np.argsort(arrivals, kind="stable")))


def nest_candidates(
    offsets: npt.NDArray[np.int32], item_id: pa.Array, position: pa.Array, affinity: pa.Array
) -> pa.ListArray:
    """The ``candidates`` column: request ``i`` has the flat rows ``offsets[i]`` up to ``offsets[i + 1]``."""
    columns = [
        array.cast(field.type) for array, field in zip((item_id, position, affinity), CANDIDATE_TYPE, strict=True)
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(CANDIDATE_TYPE))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)
