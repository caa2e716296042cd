"""The online store in Redis: per view and source partition one hash of states, beside the ledger in the same slot.

==============================  ======================================================================================
key                             holds
==============================  ======================================================================================
``{TAG}:state:VIEW:PARTITION``  hash: key to state
``{TAG}:age:VIEW:PARTITION``    sorted set: keys by the watermark at their last change; only for views whose windows
                                are all bounded
``{TAG}:progress:SCOPE``,
``{TAG}:accounts``              the ledger: see ``ledger.py``
==============================  ======================================================================================

``TAG`` is ``NAME:GROUP/GROUPS``, and a partition belongs to group ``partition % GROUPS``. On one Redis there is one
group, and a read is one transaction over everything. On a cluster there are 16, which is how many nodes the store can
be spread over; whatever commits together is in one slot, and a reader gets each group from a transaction of its own.

No key has an expiry of Redis. ``EXPIRE`` counts wall-clock time, and state is needed as long as *event* time says: of a
worker that stood still for a week, or replays last month, it would take states and leave the positions that claim to
include them. Keys leave in the commit that moves the watermark past their last use (``ViewCommit.retention_us``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit, scope_of
from dovetail.platform.stores.redis import ledger as ledger
from dovetail.platform.stores.redis.client import RedisClient
from dovetail.platform.stores.redis.online_scripts import COMMIT, PROMOTE

__all__ = ["RedisOnlineStore"]

_CLUSTER_GROUPS = 16
_KEYS_PER_COMMAND = 5_000
_KEYS_PER_PART = 2_000
_THREADS = 8


class RedisOnlineStore(OnlineStore):
    """The online store on one Redis or a Redis Cluster. Needs Redis 6.2 or newer; its memory policy must not evict.

    Every call that fails in all its repetitions raises StoreError.
    """

    def __init__(self, url: str, name: str, config: RedisConfig) -> None:
        """Connect.

        Raises:
            ConfigError: the URL or the configuration cannot be used.
            StoreError: nobody answers there.
        """
        self._client = RedisClient(url, config, decode=False)
        self._groups = _CLUSTER_GROUPS if self._client.cluster else 1
        self._tags = [f"{{{name}:{group}/{self._groups}}}" for group in range(self._groups)]
        self._commit = self._client.redis.register_script(COMMIT)
        self._promote = self._client.redis.register_script(PROMOTE)
        #: Partitions each view is known to have. A read that finds further ones is done again with them.
        self._known: dict[str, frozenset[int]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "dovetail-redis") if self._groups > 1 else None

    def progress(self, view: str) -> Mapping[int, Progress]:
        return {partition: progress for _, found in self._progress(view) for partition, progress in found.items()}

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        while True:
            known = {view: self._known.get(view, frozenset()) for view in keys}
            progress, states = self._read_groups(keys, known)
            found = {view: frozenset(progress[view]) for view in keys}
            if all(found[view] <= known[view] for view in keys):
                return {view: _key_states(states[view], progress[view]) for view in keys}
            self._known |= {view: known[view] | found[view] for view in keys}

    def keys(self, view: str, limit: int) -> list[bytes]:
        found: dict[bytes, None] = {}
        for partition in sorted(self.progress(view)):
            key = self._state_key(view, partition)
            cursor = 0
            while len(found) < limit:
                cursor, states = self._client.call(partial(_scanned, key, cursor))
                found |= dict.fromkeys(states)
                if not cursor:
                    break
        return sorted(found)[:limit]

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        def ask(pipeline: Any) -> None:
            for part in _parts(keys, _KEYS_PER_COMMAND):
                pipeline.hmget(self._state_key(view, partition), part)

        answers = self._client.ask(ask, together=self._groups == 1)
        return [state for states in answers for state in states]

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        moves = [ledger.Move(scope_of(commit.view), commit.expected, commit.progress) for commit in commits]
        keys, arguments = ledger.advance(self._tag(partition), partition, moves, accounts)
        for commit in commits:
            keys += [self._state_key(commit.view, partition), self._age_key(commit.view, partition)]
            age, before = commit.age_us, commit.leaving_before_us
            parts = list(_packed(commit.changed))
            arguments += ["" if age is None else age, 0 if before is None else before, commit.leaving, len(parts)]
            arguments += [argument for part in parts for argument in part]
        answer = self._client.call(partial(_run, self._commit, keys, arguments))
        ledger.raise_if_stale(answer, partition, moves)

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        """As said in :class:`OnlineStore`; on a cluster all or nothing per group.

        There each partition's state and position change together, but one group after the other. A crash, or another
        writer, in between leaves partitions that were promoted and partitions that were not, each exact for its own
        position; done again from an empty source, it completes.
        """
        groups = list(zip(self._progress(source), self._progress(target), strict=True))
        if not any(positions for (_, positions), _ in groups):
            raise StaleCommit(scope_of(source), 0, expected=0, found=0)
        found = {partition: progress.next_offset for _, (_, of) in groups for partition, progress in of.items()}
        for partition in sorted(found.keys() | expected.keys()):
            if found.get(partition, 0) != expected.get(partition, 0):
                raise _stale(target, partition, expected, found.get(partition, 0))
        token = secrets.token_hex(12)
        for group, ((tag, mine), (_, theirs)) in enumerate(groups):
            own = {partition for partition in expected if partition % self._groups == group}
            partitions = sorted(mine.keys() | theirs.keys() | own)
            keys = [ledger.accounts_key(tag), *(ledger.progress_key(tag, scope_of(v)) for v in (source, target))]
            arguments: list[Any] = [token, f"features.{source}", f"features.{target}"]
            for partition in partitions:
                for view in (source, target):
                    keys += [self._state_key(view, partition), self._age_key(view, partition)]
                arguments += [partition, expected.get(partition, 0)]
            answer = self._client.call(partial(_run, self._promote, keys, arguments))
            if answer is not None:
                raise _stale(target, int(answer[0]), expected, int(answer[1]))

    def accounts(self) -> list[Account]:
        def ask(pipeline: Any) -> None:
            for tag in self._tags:
                pipeline.hgetall(ledger.accounts_key(tag))

        answers = self._client.ask(ask, together=self._groups == 1)
        found = [account for stored in answers for account in ledger.accounts_of(stored)]
        rows: dict[tuple[str, str, int, str], int] = {}
        for account in found:
            rows[account[:4]] = rows.get(account[:4], 0) + account.rows
        return [Account(*key, count) for key, count in sorted(rows.items())]

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self._client.close()

    def _tag(self, partition: int) -> str:
        return self._tags[partition % self._groups]

    def _state_key(self, view: str, partition: int) -> str:
        return f"{self._tag(partition)}:state:{view}:{partition}"

    def _age_key(self, view: str, partition: int) -> str:
        return f"{self._tag(partition)}:age:{view}:{partition}"

    def _progress(self, view: str) -> list[tuple[str, dict[int, Progress]]]:
        """The positions of each group, by its tag."""

        def ask(pipeline: Any) -> None:
            for tag in self._tags:
                pipeline.hgetall(ledger.progress_key(tag, scope_of(view)))

        answers = self._client.ask(ask, together=self._groups == 1)
        return list(zip(self._tags, map(ledger.progress_of, answers), strict=True))

    def _read_groups(
        self, keys: Mapping[str, Sequence[bytes]], known: Mapping[str, frozenset[int]]
    ) -> tuple[dict[str, dict[int, Progress]], dict[str, dict[int, list[bytes | None]]]]:
        """Positions of all groups, and the states of the partitions known: each group from one transaction."""
        progress: dict[str, dict[int, Progress]] = {view: {} for view in keys}
        states: dict[str, dict[int, list[bytes | None]]] = {view: {} for view in keys}

        def read(groups: Sequence[int], *, together: bool) -> None:
            mine = [(v, p) for v in keys for p in sorted(known[v]) if together and p % self._groups == groups[0]]

            def ask(pipeline: Any) -> None:
                for group, view in product(groups, keys):
                    pipeline.hgetall(ledger.progress_key(self._tags[group], scope_of(view)))
                for view, partition in mine:
                    for part in _parts(keys[view], _KEYS_PER_COMMAND):
                        pipeline.hmget(self._state_key(view, partition), part)

            answers = iter(self._client.ask(ask, together=together))
            for _, view in product(groups, keys):
                progress[view] |= ledger.progress_of(next(answers))
            for view, partition in mine:
                count = len(range(0, len(keys[view]), _KEYS_PER_COMMAND))
                states[view][partition] = [state for found in islice(answers, count) for state in found]

        if self._threads is None:
            read([0], together=True)
            return progress, states
        busy = {partition % self._groups for partitions in known.values() for partition in partitions}
        list(self._threads.map(lambda group: read([group], together=True), sorted(busy)))
        # The others hold nothing that is known of; positions alone need no transaction.
        read([group for group in range(self._groups) if group not in busy], together=False)
        return progress, states


def _scanned(key: str, cursor: int, client: Any) -> tuple[int, dict[bytes, bytes]]:
    found: tuple[int, dict[bytes, bytes]] = client.hscan(key, cursor, count=1_000)
    return found


def _run(script: Any, keys: Sequence[str], arguments: Sequence[Any], client: Any) -> Any:
    return script(keys=keys, args=arguments, client=client)


def _key_states(states: Mapping[int, list[bytes | None]], progress: Mapping[int, Progress]) -> KeyStates:
    """The states of each key by ascending partition, and whose each is."""
    found = [
        (partition, index, state)
        for partition in sorted(states)
        for index, state in enumerate(states[partition])
        if state is not None
    ]
    owners = np.fromiter((index for _, index, _ in found), dtype=np.int32, count=len(found))
    order = np.argsort(owners, kind="stable")
    return KeyStates(owners[order], [found[at][2] for at in order.tolist()], dict(sorted(progress.items())))


def _packed(changed: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Lengths and bytes, in parts: a fraction of the arguments that keys and states would be one by one."""
    items = iter(changed.items())
    while part := list(islice(items, _KEYS_PER_PART)):
        flat = [value for item in part for value in item]
        yield np.fromiter(map(len, flat), dtype="<u4", count=len(flat)).tobytes(), b"".join(flat)


def _parts(keys: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _stale(view: str, partition: int, expected: Mapping[int, int], found: int) -> StaleCommit:
    return StaleCommit(scope_of(view), partition, expected=expected.get(partition, 0), found=found)
