"""The values of a streaming view at the events of its stream, by the stream engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.features.at_events.rounds import rounds_of, too_old
from dovetail.features.expressions.execute import PreparedColumns, StreamPreparer
from dovetail.features.kernels.words import Words
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, RowOrigin, positions_of, prepare_rows, running_watermark

__all__ = ["ReadStates", "TakenIn", "ValuesAtEvents", "values_by_replay"]

#: The states of keys, None where there is none.
ReadStates = Callable[[Sequence[bytes]], Sequence[bytes | None]]


class TakenIn(NamedTuple):
    """Rows taken in: the view's columns for each, changed states (``b""``: gone), and the watermark after them."""

    values: pa.Table
    changed: Mapping[bytes, bytes]
    watermark: int


class ValuesAtEvents:
    """Takes in rows of one stream, and gives each the value that ``view`` has at it (``rounds.py``).

    The states are those of the rows alone that were taken in: beside what serves requests, they are states of their
    own.
    """

    def __init__(self, view: StreamView) -> None:
        self.view = view
        self._engine, self._preparer = StreamEngine(view), StreamPreparer(view)

    def warm(self) -> None:
        """Compile what :meth:`take_in` runs."""
        self._engine.warm_apply()
        self._engine.warm_values()
        one = np.zeros(1, dtype=np.int64)
        rounds_of(one, one, one, one, np.zeros(1, dtype=np.bool_), 0)

    def take_in(self, events: pa.Table, partition: int, watermark: int, read: ReadStates) -> TakenIn:
        """The values at ``events``, rows of a partition with their positions, in its order; none was taken in before.

        ``watermark`` is what the rows before them left; ``read`` gives the states they left.

        Raises:
            WireError: an expression has no value on an event.
            StateError: a state is of another definition or damaged, or a sum has more than 38 digits.
        """
        if not events.num_rows:
            return TakenIn(self.view.output_schema.empty_table(), {}, watermark)
        prepared = self._preparer.prepare(events)
        keys, codes = encode_keys([events.column(column) for column in self.view.entity])
        before, after = running_watermark(prepared.event_time, watermark)
        newest = np.maximum(before, prepared.event_time)
        lateness = self.view.stream.allowed_lateness_us
        old = too_old(prepared.event_time, newest, lateness)
        of_key = codes.astype(np.int64)
        order = np.argsort(of_key, kind="stable")
        order = order[of_key[order] >= 0]
        rounds = rounds_of(order, of_key, prepared.event_time, newest, old, lateness)
        states: dict[int, bytes | None] = dict(enumerate(read(keys)))
        first = dict(states)
        parts, places = [], []
        for rows, kept in zip(_by_round(rounds), _by_round(rounds[prepared.kept], int(rounds.max()) + 1), strict=True):
            mine = np.unique(of_key[rows[of_key[rows] >= 0]])
            self._apply(prepared, before, events, partition, kept, of_key, mine, states)
            asked = rows[~old[rows]]
            parts.append(self._values(mine, states, of_key[asked], prepared.event_time[asked]))
            places.append(asked)
        changed = {keys[key]: state or b"" for key, state in states.items() if (state or b"") != (first[key] or b"")}
        return TakenIn(_in_place(parts, places, events.num_rows, self.view.output_schema), changed, after)

    def _apply(
        self,
        prepared: PreparedColumns,
        before: Words,
        events: pa.Table,
        partition: int,
        kept: Words,
        codes: Words,
        keys: Words,
        states: dict[int, bytes | None],
    ) -> None:
        """Let the states of ``keys`` take in the rows at ``kept``, places among those that pass WHERE."""
        if not len(kept) or not len(keys):
            return
        at, taken = prepared.kept[kept], pa.array(kept)
        rows = prepare_rows(
            self._engine.layout,
            _among(keys, codes[at]),
            prepared.event_time[at],
            before[at],
            [argument.take(taken) for argument in prepared.arguments],
            [filter_.take(taken) for filter_ in prepared.filters],
            self._engine.collections,
            RowOrigin(partition, positions_of(events)[at]),
        )
        applied = self._engine.apply([states[key] for key in keys.tolist()], rows)
        states.update(zip(keys.tolist(), applied.blobs, strict=True))

    def _values(self, keys: Words, states: Mapping[int, bytes | None], codes: Words, times: Words) -> pa.Table:
        owners = np.arange(len(keys), dtype=np.int32)
        blobs = [states[key] for key in keys.tolist()]
        return self._engine.values(blobs, owners, _among(keys, codes), times, NO_WATERMARK).table


def values_by_replay(view: StreamView, events: pa.Table) -> pa.Table:
    """The values of ``view`` at ``events``, rows with positions, each partition's in its order; in the given order."""
    taker = ValuesAtEvents(view)
    partitions = np.asarray(events.column("_partition").to_numpy())
    parts, places = [], []
    for partition in np.unique(partitions).tolist():
        mine = np.flatnonzero(partitions == partition)
        rows = events.take(pa.array(mine)).combine_chunks()
        parts.append(taker.take_in(rows, partition, NO_WATERMARK, lambda keys: [None] * len(keys)).values)
        places.append(mine)
    return _in_place(parts, places, events.num_rows, view.output_schema)


def _among(keys: Words, codes: Words) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The places of ``codes`` among ``keys``, ascending; -1 stays."""
    return np.where(codes < 0, -1, np.searchsorted(keys, codes)).astype(np.int32)


def _by_round(rounds: Words, count: int | None = None) -> list[Words]:
    """The places of each round's rows, ascending; of ``count`` rounds, or as many as there are."""
    count = int(rounds.max(initial=0)) + 1 if count is None else count
    order = np.argsort(rounds, kind="stable")
    return np.split(order, np.searchsorted(rounds[order], np.arange(1, count)))


def _in_place(parts: Sequence[pa.Table], places: Sequence[Words], rows: int, schema: pa.Schema) -> pa.Table:
    """The rows of ``parts`` at their ``places``; NULL where there is none."""
    if not parts:
        return schema.empty_table()
    at = np.full(rows, -1, dtype=np.int64)
    found = np.concatenate(places)
    at[found] = np.arange(len(found))
    return pa.concat_tables(parts).combine_chunks().take(pa.array(at, mask=at < 0))
