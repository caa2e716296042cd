"""Partitions folded in tasks: each writes the states of a partition to a file, and the driver puts them in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.serving.versions import ForEach
from dovetail.features.stored.folding.partition_log import PartitionLog
from dovetail.platform.errors import StateError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit

__all__ = ["fold_in_tasks"]

#: Keys whose states are committed together, and of a row group of a file of states.
_STATES_AT_ONCE = 50_000
_STATES = pa.schema([pa.field("source", pa.int32()), pa.field("key", pa.binary()), pa.field("state", pa.binary())])


class _Folded(NamedTuple):
    """The state of a partition: a draft of a file of ``_STATES``; by source, what it includes; and its accounts."""

    draft: str
    progress: Mapping[int, Progress]
    accounts: Sequence[Account]
    rows: int


@dataclass(frozen=True, slots=True)
class _FoldPartition:
    """Folds a partition from its first row on, wherever it is called, and writes the states as a draft."""

    offline: OfflineStore
    folder: str

    def __call__(self, part: PartitionLog) -> _Folded:
        states = _States()
        rows = sum(part.fold(self.offline, states))
        with self.offline.drafting(f"{self.folder}/{part.stream.name}-{part.partition}.parquet", _STATES) as (
            name,
            out,
        ):
            for source in part.sources:
                kept = list(states.living(source, part.view.retention_us).items())
                for at in range(0, len(kept), _STATES_AT_ONCE):
                    keys, blobs = zip(*kept[at : at + _STATES_AT_ONCE], strict=True)
                    numbers = pa.array([source] * len(keys), pa.int32())
                    out.write_table(pa.table([numbers, pa.array(keys), pa.array(blobs)], schema=_STATES))
        return _Folded(name, states.found, states.credited, rows)


def fold_in_tasks(
    staged: OnlineStore,
    name: str,
    offline: OfflineStore,
    parts: Sequence[PartitionLog],
    each: ForEach,
    say: Callable[[int], None],
) -> None:
    """Let ``each`` fold the partitions that are not in place, and put their states in place in ``staged``.

    ``name`` is what ``staged`` calls the view; drafts are in a folder of ``offline`` of that name. ``say(rows)`` is
    called when a partition is in place.

    While a source's states are put in place its position counts them, and says nothing of the stream; what was ended
    on the way is put in place again.
    """
    folder = f"bootstrap/{name.replace('#', '-')}"
    there = staged.progress("")
    wanted = [part for part in parts if any(there.get(s, Progress()).next_offset < part.end for s in part.sources)]
    for part, folded in zip(wanted, each(_FoldPartition(offline, folder), wanted), strict=True):
        had = {account[1:4]: account.rows for account in staged.accounts() if account.stage == f"features.{name}"}
        new = [a._replace(rows=rows) for a in folded.accounts if (rows := a.rows - had.get(a[1:4], 0))]
        for number, source in enumerate(part.sources):
            credit = [] if number else new  # with the first source, as all of a partition's are
            _put_in_place(staged, offline, f"{folder}/{folded.draft}", source, part, folded, credit)
        say(folded.rows)
    if wanted:
        offline.clear(folder, lambda _: True)


def _put_in_place(
    staged: OnlineStore,
    offline: OfflineStore,
    path: str,
    source: int,
    part: PartitionLog,
    folded: _Folded,
    accounts: Sequence[Account],
) -> None:
    """Commit the states of a source in the file at ``path``, bounded numbers of them at once; the last ``accounts``."""
    at = staged.progress("").get(source, Progress()).next_offset
    now = folded.progress.get(source, Progress())
    with offline.open(path) as file:
        changed: dict[bytes, bytes] = {}
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            mine = rows.filter(pc.equal(rows.column("source"), source))
            changed |= dict(zip(mine.column("key").to_pylist(), mine.column("state").to_pylist(), strict=True))
            if len(changed) >= _STATES_AT_ONCE and at + 1 < part.end:
                moved = replace(now, next_offset=at + 1)
                staged.commit(source, [ViewCommit("", at, moved, changed, part.view.retention_us)], [])
                at, changed = at + 1, {}
    whole = replace(now, next_offset=part.end)
    staged.commit(source, [ViewCommit("", at, whole, changed, part.view.retention_us)], accounts)


class _States(OnlineStore):
    """The states of one view in memory, as one reader of some sources makes them."""

    def __init__(self) -> None:
        self.found: dict[int, Progress] = {}
        self._accounts: dict[tuple[str, str, int, str], int] = {}
        #: By source and key, the state and the watermark that it is remembered by.
        self._states: dict[int, dict[bytes, tuple[bytes, int | None]]] = {}

    @property
    def credited(self) -> list[Account]:
        """The accounts."""
        return [Account(*key, rows) for key, rows in self._accounts.items()]

    def living(self, source: int, retention_us: int | None) -> dict[bytes, bytes]:
        """By key, the states of a source that event time has not passed."""
        last = ViewCommit("", 0, self.found.get(source, Progress()), {}, retention_us).leaving_before_us
        return {
            key: state
            for key, (state, age) in self._states.get(source, {}).items()
            if last is None or age is None or age >= last
        }

    def progress(self, view: str) -> Mapping[int, Progress]:
        return dict(self.found)

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        found = {}
        for view, wanted in keys.items():
            there = [
                (index, self._states[source][key][0])
                for index, key in enumerate(wanted)
                for source in sorted(self._states)
                if key in self._states[source]
            ]
            numbers = np.array([index for index, _ in there], dtype=np.int32)
            found[view] = KeyStates(numbers, [state for _, state in there], dict(self.found))
        return found

    def keys(self, view: str, limit: int) -> list[bytes]:
        return list({key for states in self._states.values() for key in states})[:limit]

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        states = self._states.get(partition, {})
        return [states[key][0] if key in states else None for key in keys]

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        states = self._states.setdefault(partition, {})
        for change in commits:
            for key, state in change.changed.items():
                states.pop(key, None)
                if state:
                    states[key] = (state, change.age_us)
            self.found[partition] = change.progress
        for account in accounts:
            self._accounts[account[:4]] = self._accounts.get(account[:4], 0) + account.rows

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        raise StateError("there is one view here, without a name")

    def accounts(self) -> list[Account]:
        return self.credited

    def close(self) -> None:
        self._states.clear()
