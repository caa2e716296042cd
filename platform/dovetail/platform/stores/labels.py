"""The label store: label rows by ``(request_id, item_id, kind)``, inserted before their snapshot is known.

Each row keeps one event of its kind: the one with the smallest *effective time*, ties decided by position. The
effective time of a label is when the stream knew of it: its event time, or, when it came later than its partition's
clock allowed, just after that clock. A label counts for a request when its effective time is within the window, which
depends on the log alone and not on who read what first; and a minimum does not mind order or repetition.

A label that happened too long before its request counts for none, and when that was is not known when the label comes.
So what took effect after the first event of a key and also happened after it is kept beside the row: it stands in where
the first turns out to be early. Others are not kept: where such a one is not early, the first is not either.

A row leaves when no snapshot that is still to come can ask for it (see ``dovetail.joiners.retention``). What it ended
as stays in the accounts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.positions import Progress

__all__ = [
    "EVENT_KEY",
    "KEY",
    "LABEL_EVENTS",
    "LABEL_ROWS",
    "ORDER",
    "PENDING",
    "LabelStore",
    "as_table",
    "earliest_per_key",
    "first_per_key",
    "joined_keys",
    "let_go_accounts",
    "let_go_scope",
    "repeated_accounts",
    "repeated_scope",
    "retired_accounts",
    "stand_ins",
    "with_retired",
]

#: A label row. ``item_id`` is the item's value as text; times are microseconds since 1970-01-01 UTC.
LABEL_ROWS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("effective_us", pa.int64(), nullable=False),
        pa.field("event_time_us", pa.int64(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
#: A label that is kept by itself: its row, and its own columns as a text, NULL without any.
LABEL_EVENTS = LABEL_ROWS.append(pa.field("payload", pa.string()))
#: What identifies a label that is kept by itself.
EVENT_KEY = ["request_id", "item_id", "kind", "partition", "offset", "row"]
#: What identifies a label row.
KEY = ["request_id", "item_id", "kind"]
#: Which of two events of a key is kept: the smaller one by these.
ORDER = ["effective_us", "event_time_us", "partition", "offset", "row"]
#: The outcome of a row that no snapshot has met yet.
PENDING = "pending"
_SEPARATOR = "\x1f"
_REPEATED = ".repeated"
_RETIRED = ".retired"


def joined_keys(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The key columns of each row as one string, to be looked up in those of another table."""
    parts = [table.column(name).cast(pa.string()) for name in columns]
    joined = pc.binary_join_element_wise(*parts, _SEPARATOR)
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def as_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Rows, as a driver gives them, as a table of ``schema``."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def earliest_per_key(rows: pa.Table) -> pa.Table:
    """One row per key of ``rows`` (LABEL_ROWS): the first by effective time, event time and position."""
    if rows.num_rows < 2:
        return rows
    ordered, first = _by_key(rows)
    return ordered.filter(pa.array(first))


def stand_ins(rows: pa.Table) -> pa.Table:
    """The rows (LABEL_EVENTS, without payload) that may stand for the first of their key, where that is early.

    These are the rows of ``rows`` (LABEL_ROWS) that follow the first of their key, see :func:`earliest_per_key`, and
    happened after it.
    """
    if rows.num_rows < 2:
        return LABEL_EVENTS.empty_table()
    ordered, first = _by_key(rows)
    happened = ordered.column("event_time_us").to_numpy()
    later = happened > happened[np.flatnonzero(first)][np.cumsum(first) - 1]
    found = ordered.filter(pa.array(later))
    return pa.table([*found.columns, pa.nulls(found.num_rows, pa.string())], schema=LABEL_EVENTS)


def _by_key(rows: pa.Table) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """``rows``, at least one, by key and then in their order; and which of them are the first of their key."""
    ordered = rows.sort_by([(name, "ascending") for name in (*KEY, *ORDER)]).combine_chunks()
    first = np.zeros(ordered.num_rows, dtype=np.bool_)
    first[0] = True
    for name in KEY:
        column = ordered.column(name).chunk(0)
        first[1:] |= np.asarray(pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False))
    return ordered, first


def first_per_key(marks: pa.Table) -> pa.Table:
    """Of the rows of ``marks``, which has the columns of KEY, the first of each key, in their order."""
    if marks.num_rows == 0:
        return marks
    codes = joined_keys(marks, KEY).dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return marks if len(first) == len(codes) else marks.take(pa.array(np.sort(first)))


def repeated_scope(kind: str) -> str:
    """The stage under which ``mark`` counts rows that met a label of ``kind`` which another had met before."""
    return f"labels.{kind}{_REPEATED}"


def repeated_accounts(partition: int, counts: Mapping[tuple[str, str], int]) -> list[Account]:
    """The accounts that ``mark`` credits for repeated rows by (kind, outcome)."""
    books = []
    for (kind, outcome), rows in counts.items():
        stage = repeated_scope(kind)
        books += [Account(stage, kind, partition, READ, rows), Account(stage, kind, partition, outcome, rows)]
    return books


def let_go_scope(kind: str) -> str:
    """The stage under which ``retire`` counts labels of ``kind`` that were kept by themselves."""
    return f"labels.{kind}.let_go"


def let_go_accounts(counts: Mapping[str, int]) -> list[Account]:
    """The accounts that ``retire`` credits for labels that were kept by themselves, by kind."""
    return [
        Account(let_go_scope(kind), kind, 0, outcome, rows)
        for kind, rows in counts.items()
        for outcome in (READ, "let_go")
    ]


def retired_accounts(counts: Mapping[tuple[str, str], int]) -> list[Account]:
    """The accounts that ``retire`` credits for rows by (kind, outcome)."""
    books = []
    for (kind, outcome), rows in counts.items():
        stage = f"labels.{kind}{_RETIRED}"
        books += [Account(stage, kind, 0, READ, rows), Account(stage, kind, 0, outcome, rows)]
    return books


def with_retired(held: Mapping[tuple[str, str], int], accounts: Sequence[Account]) -> dict[tuple[str, str], int]:
    """Rows by (kind, outcome): those held, and those retired as ``accounts`` tell."""
    total = dict(held)
    for account in accounts:
        if account.stage.endswith(_RETIRED) and account.outcome != READ:
            key = (account.topic, account.outcome)
            total[key] = total.get(key, 0) + account.rows
    return total


class LabelStore(ABC):
    """Label rows with the compare-and-set commit. Safe for use from several threads."""

    @abstractmethod
    def progress(self, scope: str) -> Mapping[int, Progress]:
        """How far the reader ``scope`` has come, by partition."""

    @abstractmethod
    def lookup(self, request_ids: Sequence[str]) -> pa.Table:
        """The label rows (LABEL_ROWS) of these requests, in no particular order."""

    @abstractmethod
    def lookup_events(self, request_ids: Sequence[str]) -> pa.Table:
        """The labels (LABEL_EVENTS) that are kept by themselves of these requests, in no particular order.

        The first label of a key may have left before those that stand in for it.
        """

    @abstractmethod
    def lookup_both(self, request_ids: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        """The rows of :meth:`lookup` and of :meth:`lookup_events`, as of one time."""

    @abstractmethod
    def insert(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        rows: pa.Table,
        topic: str,
        dead: int = 0,
        late: int = 0,
        unattributed: int = 0,
        repeated: int = 0,
        events: pa.Table | None = None,
    ) -> None:
        """Insert or merge label rows and move the reader's position, all or nothing; credit the accounts.

        ``events`` (LABEL_EVENTS) are those of ``rows`` that are kept by themselves, too, once each. Without them, those
        are kept that may stand for the first of their key (:func:`stand_ins`), of these rows and of the one that was
        there. The new ones are credited to ``labels.<kind>.kept``.

        A row whose key is already known, from this call or an earlier one, is a ``duplicate``; the first of its key is
        ``inserted``; ``dead`` messages could not be read; ``late`` rows came after every window, ``unattributed``
        ones belong to no request, ``repeated`` ones are known by their id and are ``duplicate``, too; these are not
        stored.

        Raises:
            StaleCommit: the stored position is not the expected one.
        """

    @abstractmethod
    def mark(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        outcomes: pa.Table,
        accounts: Sequence[Account],
    ) -> None:
        """Update label rows by key with what became of them, and move the reader's position, all or nothing.

        ``outcomes`` has string columns request_id, item_id, kind, outcome; their rows have been looked up. The first
        outcome of a label row stands. Where several snapshot rows meet one, because a request or an item came twice,
        what the others say is credited to ``labels.<kind>.repeated``, in the same transaction.

        Raises:
            StaleCommit: the stored position is not the expected one.
            StoreError: a row is gone, in a store that may lose its last commits, and with them a move from position 0.
        """

    @abstractmethod
    def retire(self, before_us: int, limit: int = 50_000) -> int:
        """Remove rows that took effect before ``before_us``, about ``limit`` of them, oldest first; returns how many.

        What they had ended as is credited to ``labels.<kind>.retired``, in the same transaction. Labels that are kept
        by themselves leave with them, and are credited to ``labels.<kind>.let_go``.
        """

    @abstractmethod
    def rows(self) -> int:
        """Number of label rows held now."""

    @abstractmethod
    def events(self) -> Mapping[str, int]:
        """Number of labels that are kept by themselves now, by kind: counted one by one."""

    @abstractmethod
    def outcomes(self) -> dict[tuple[str, str], int]:
        """Label rows ever inserted by (kind, outcome); ``pending`` is one not met by its snapshot, retired or not.

        Of the labels that took effect after every window, those are pending that were stored after their snapshot row
        had been judged: how many depends on who was faster.
        """

    @abstractmethod
    def accounts(self) -> list[Account]:
        """The accounts kept with this store."""

    @abstractmethod
    def close(self) -> None:
        """Release connections."""
