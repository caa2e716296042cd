"""Reads samples in batches for a trainer of any kind, each once, and goes on exactly where it was."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features import Project, load
from dovetail.platform.errors import ConfigError, StateError
from dovetail.platform.rows.encodings.dictionaries import compacted, decoded
from dovetail.platform.rows.encodings.shared import as_dictionaries
from dovetail.samples.merge import Merge
from dovetail.samples.reader_state import SavedPlace
from dovetail.samples.sample_log import SampleLog

__all__ = ["Reader"]

_FORMAT = 1
_LOOK_AGAIN_S = 0.5
# Primes of splitmix64, which spreads requests over shards.
_SPREAD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Reader:
    """The samples of a target as Arrow tables of at most ``batch_rows`` rows.

    Guarantees:

    - each source position once: what a crash made publish twice is read once, and where the archive ends and the topic
      goes on, nothing is missing and nothing doubled;
    - the readers of ``shard`` 0 to n - 1 of n read all samples between them, each one's rows as they would without
      shards; the candidates of a request stay in one shard;
    - :meth:`state_dict` between two batches, given to :meth:`load_state_dict` of a new reader with the same arguments,
      goes on with the next batch: the same rows in the same order, also if they have been archived meanwhile (with
      ``follow``, what came later is behind what was there);
    - the order is that of the topic within a partition, and the partitions go on day by day of their requests; with
      ``shuffle_rows``, rows are permuted within blocks of at least so many (a block ends with a message), by ``seed``.

    It ends when archive and topic have no more; with ``follow`` it waits for more instead, and a block is then as much
    as there is. ``topic`` False reads the archive alone. ``days`` keeps the samples of requests from the first to the
    last of two UTC days, both included. ``columns``: those given out, all if empty.

    Lists, maps and structs that the candidates of a request share are in every row; with ``per_request``, such a
    column is a dictionary: one value for each request that has rows in the batch, and an int32 index for each row.
    A batch of samples that were all made when such values still stood in every row has the plain column.

    ``wait`` waits so many seconds, for more samples to come. Belongs to one thread; close it, or use it in ``with``.

    Raises:
        ConfigError: the target, a shard or a size is not one.
    """

    def __init__(
        self,
        project: Project | str | Path = ".",
        *,
        target: str = "",
        columns: Sequence[str] = (),
        days: tuple[str, str] | None = None,
        batch_rows: int = 4_096,
        shuffle_rows: int = 0,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        topic: bool = True,
        follow: bool = False,
        per_request: bool = False,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        number, shards = shard
        if not 0 <= number < shards:
            raise ConfigError(f"shard = {shard}: give (number, shards) with 0 <= number < shards")
        if isinstance(columns, str):
            raise ConfigError(f"columns = {columns!r}: give a list of names")
        if len(set(columns)) < len(columns):
            raise ConfigError(f"columns = {list(columns)!r}: give each name once")
        if days is not None:
            days = _days(days)
        if batch_rows < 1 or shuffle_rows < 0:
            raise ConfigError("batch_rows must be at least 1, and shuffle_rows at least 0")
        loaded = load(project) if isinstance(project, str | Path) else project
        self._log = SampleLog(loaded, target, topic=topic, days=days)
        self._columns = tuple(columns)
        self._batch_rows, self._block_rows = batch_rows, max(shuffle_rows, batch_rows)
        self._shuffled, self._seed, self._shard = bool(shuffle_rows), seed, shard
        self._follow, self._wait = follow, wait
        self._shape = compacted if per_request else decoded
        #: What decides which rows come in which order: the same for who writes and who reads a state.
        self._identity = {
            "target": target,
            "scene": loaded.config.scene or None,
            "days": list(days) if days else None,
            "batch_rows": batch_rows,
            "shuffle_rows": shuffle_rows,
            "seed": seed,
            "shard": list(shard),
        }
        self._merge = Merge(self._log, self._of_shard, None if days is None else _since_1970(days))
        # Where the block begins that is being given out: what is read before it has been given out in full.
        self._cursors = self._merge.cursors
        self._number = 0
        # By partition, the offsets where the block ends; and how many of its rows have been given out.
        self._ends: dict[int, int] = {}
        self._given = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of stores and broker."""
        self._log.close()

    def __iter__(self) -> Iterator[pa.Table]:
        """The batches from where the reader is.

        Raises:
            StateError: samples that were still to be read are gone from their topic, and were not archived.
            ConfigError: a column that samples do not have.
        """
        while True:
            block = _together(self._again() if self._ends else self._gather())
            if block is None:
                if not self._follow:
                    return
                self._wait(_LOOK_AGAIN_S)
                self._log.look()
                continue
            rows = self._ordered(block)
            while self._given < rows.num_rows:
                batch = rows.slice(self._given, self._batch_rows)
                self._given += batch.num_rows
                yield self._selected(batch)
            self._finish()

    def state_dict(self) -> dict[str, Any]:
        """Where the reader is, as JSON can say it: behind the last batch that was given out."""
        return {
            "format": _FORMAT,
            **self._identity,
            "cursors": {
                str(number): [cursor.offset, cursor.day, {str(source): last for source, last in cursor.sources.items()}]
                for number, cursor in self._cursors.items()
            },
            "number": self._number,
            "ends": {str(number): end for number, end in self._ends.items()},
            "given": self._given,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the reader was whose :meth:`state_dict` this is; ``columns`` may be others.

        Raises:
            StateError: it is another reader's, damaged, or none; this reader is where it was.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            said = state.get("format") if isinstance(state, Mapping) else state
            raise StateError(
                f"the state of a reader is what its state_dict() gave, of format {_FORMAT}; this is of {said!r}"
            )
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise StateError(
                    f"the state is of a reader with {name} = {state.get(name)!r}, this one has {mine!r}: make it with "
                    "the same arguments"
                )
        place = SavedPlace.of(state, self._log.partitions)
        self._cursors, self._ends = place.block_begins(self._log.partitions), place.block_ends()
        self._number, self._given = place.number, place.given
        self._merge.go_to(self._cursors)

    # --- blocks -----------------------------------------------------------------------------------------------------

    def _gather(self) -> list[pa.Table]:
        """The next block; empty when there are no more rows now."""
        parts = self._merge.take(self._block_rows)
        if parts:
            self._ends = {
                number: cursor.offset
                for number, cursor in self._merge.cursors.items()
                if cursor.offset > self._cursors[number].offset
            }
        return parts

    def _again(self) -> list[pa.Table]:
        """The block that was being given out, read again."""
        self._merge.go_to(self._cursors)
        return self._merge.take_to(self._ends)

    def _finish(self) -> None:
        """The block has been given out: the next begins where it ends."""
        self._cursors, self._ends, self._given = self._merge.cursors, {}, 0
        self._number += 1

    # --- rows -------------------------------------------------------------------------------------------------------

    def _of_shard(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        number, shards = self._shard
        if shards == 1:
            return np.ones(rows.num_rows, dtype=np.bool_)
        mine: npt.NDArray[np.bool_] = _shard_of(rows, shards) == number
        return mine

    def _ordered(self, block: pa.Table) -> pa.Table:
        if not self._shuffled:
            return block
        chance = np.random.Generator(np.random.PCG64([self._seed, self._number, *self._shard]))
        return block.take(pa.array(chance.permutation(block.num_rows))).combine_chunks()

    def _selected(self, batch: pa.Table) -> pa.Table:
        if missing := [name for name in self._columns if name not in batch.column_names]:
            raise ConfigError(
                f"there is no column {missing[0]!r} in samples; there are {', '.join(batch.column_names)}"
            )
        return self._shape(batch.select(list(self._columns)) if self._columns else batch)


def _days(days: tuple[str, str]) -> tuple[str, str]:
    """Two days as ISO 8601 writes them at length."""
    try:
        first, last = (date.fromisoformat(day) for day in days)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"days = {days}: give the first and the last day like 2024-03-01") from error
    if first > last:
        raise ConfigError(f"days = {days}: the first day is after the last")
    return first.isoformat(), last.isoformat()


def _since_1970(days: tuple[str, str]) -> tuple[int, int]:
    first, last = (date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal() for day in days)
    return first, last


def _together(parts: Sequence[pa.Table]) -> pa.Table | None:
    if not parts:
        return None
    return as_dictionaries(pa.concat_tables(parts, promote_options="permissive").combine_chunks())


def _shard_of(rows: pa.Table, shards: int) -> npt.NDArray[np.uint64]:
    """The shard of each row, by its request: splitmix64 over the CRC-32 of ``request_id``, modulo ``shards``."""
    requests = rows.column("request_id").combine_chunks().dictionary_encode()
    sums = [zlib.crc32(str(request).encode()) for request in requests.dictionary.to_pylist()]
    step, first, second = (np.uint64(prime) for prime in _SPREAD)
    with np.errstate(over="ignore"):
        mixed = np.array(sums, dtype=np.uint64) + step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * first
        mixed = (mixed ^ (mixed >> np.uint64(27))) * second
    spread: npt.NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(shards)
    of_row: npt.NDArray[np.uint64] = spread[requests.indices.to_numpy()]
    return of_row
