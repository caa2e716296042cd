"""The label store in Redis: one hash per request, and the ledger beside it.

Every change is one Lua script, which Redis runs alone: compare-and-set, rows and accounts together. Keys carry the hash
tag ``{NAME}``, so a cluster keeps a project's labels, positions and accounts in one slot, where one script may touch
them all; what that costs is that one node holds them. A Redis that loses its last second (``appendfsync everysec``, a
failover) loses rows and positions together, and the label agent reads them again from the log.

=============================  ====================================================================================
key                            holds
=============================  ====================================================================================
``{NAME}:request:REQUEST_ID``  hash: ``kind 0x1f item`` to ``effective,event,partition,offset,row,outcome``; of
                               labels that are kept by themselves also ``0x1f kind 0x1f item`` and then, after
                               0x1f, ``partition,offset,row``, to ``effective,event,payload``
``{NAME}:effect``              sorted set: request ids by their smallest effective time
``{NAME}:progress:SCOPE``,
``{NAME}:accounts``            the ledger: see ``ledger.py``
``{NAME}:outcomes``            hash: ``kind 0x1f outcome`` to rows held
=============================  ====================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import (
    EVENT_KEY,
    LABEL_EVENTS,
    LABEL_ROWS,
    ORDER,
    LabelStore,
    as_table,
    earliest_per_key,
    stand_ins,
    with_retired,
)
from dovetail.platform.stores.redis import ledger as ledger
from dovetail.platform.stores.redis.client import RedisClient
from dovetail.platform.stores.redis.scripts import INSERT, MARK, RETIRE

__all__ = ["RedisLabelStore"]

_SEPARATOR = "\x1f"
_REQUESTS_PER_PIPELINE = 5_000


class RedisLabelStore(LabelStore):
    """The label store on one Redis, or one slot of a cluster. Needs Redis 6.2 or newer.

    Every call that fails in all its repetitions raises StoreError.
    """

    def __init__(self, url: str, name: str, config: RedisConfig) -> None:
        """Connect.

        Raises:
            ConfigError: the URL or the configuration cannot be used.
            StoreError: nobody answers there.
        """
        self._client = RedisClient(url, config, decode=True)
        self._tag = f"{{{name}}}"
        register = self._client.redis.register_script
        self._insert, self._mark, self._retire = register(INSERT), register(MARK), register(RETIRE)

    def progress(self, scope: str) -> Mapping[int, Progress]:
        [found] = self._hashes([ledger.progress_key(self._tag, scope)], together=False)
        return ledger.progress_of(found)

    def lookup(self, request_ids: Sequence[str]) -> pa.Table:
        return self.lookup_both(request_ids)[0]

    def lookup_events(self, request_ids: Sequence[str]) -> pa.Table:
        return self.lookup_both(request_ids)[1]

    def lookup_both(self, request_ids: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        rows, events = [LABEL_ROWS.empty_table()], [LABEL_EVENTS.empty_table()]
        for start in range(0, len(request_ids), _REQUESTS_PER_PIPELINE):
            part = list(request_ids[start : start + _REQUESTS_PER_PIPELINE])
            found = self._hashes([self._key("request", request_id) for request_id in part], together=False)
            rows.append(_label_rows(part, found))
            events.append(_label_events(part, found))
        return pa.concat_tables(rows), pa.concat_tables(events)

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
        first = earliest_per_key(rows)
        # Of the rows given; the script compares the first of each key with the one that is there.
        kept = stand_ins(rows) if events is None else events
        requests, numbers = _numbered(
            pa.chunked_array([*first["request_id"].chunks, *kept["request_id"].chunks], pa.string())
        )
        index, of_events = numbers[: first.num_rows], numbers[first.num_rows :]
        columns = [index, _fields(first), first.column("kind").to_pylist()]
        columns += [first.column(name).to_pylist() for name in ORDER]
        fixed = {"late": late, "unattributed": unattributed, "dead_letter": dead}
        fixed["duplicate"] = rows.num_rows + repeated
        fixed[READ] = sum(fixed.values())
        accounts = [Account(scope, topic, partition, outcome, n) for outcome, n in fixed.items()]
        counters = [ledger.account_field(scope, topic, partition, what) for what in ("inserted", "duplicate")]
        counters += [ledger.account_field(f"{scope}.kept", topic, partition, what) for what in (READ, "kept")]
        move = ledger.Move(scope, expected, progress)
        alone = [of_events, *_event_fields(kept), kept.column("effective_us").to_pylist()]
        arguments = [*counters, kept.num_rows, *_flat(alone), int(events is None), *_flat(columns)]
        self._run(self._insert, partition, move, accounts, requests, arguments)

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
        requests, index = _numbered(outcomes.column("request_id"))
        columns = [
            index,
            _fields(outcomes),
            outcomes.column("kind").to_pylist(),
            outcomes.column("outcome").to_pylist(),
        ]
        move = ledger.Move(scope, expected, progress)
        self._run(self._mark, partition, move, accounts, requests, list(_flat(columns)))

    def retire(self, before_us: int, limit: int = 50_000) -> int:
        effect, last, num = self._key("effect"), f"({before_us}", max(1, limit // 16)
        requests = self._client.call(
            lambda redis: redis.zrange(effect, "-inf", last, byscore=True, offset=0, num=num),
        )
        if not requests:
            return 0
        keys = [*self._common("none"), *(self._key("request", request) for request in requests)]
        found = self._client.call(lambda _: self._retire(keys=keys, args=[before_us, *requests]))
        counts = {}
        for name, rows in zip(found[::2], found[1::2], strict=True):
            kind, outcome = name.split(_SEPARATOR)
            counts[kind, outcome] = int(rows)
        return sum(counts.values())

    def rows(self) -> int:
        return sum(self._held().values())

    def events(self) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        start = 0
        while requests := self._some_requests(start):
            kinds = self.lookup_events(requests).column("kind")
            counts.update(kinds.to_pylist())
            start += len(requests)
        return counts

    def _some_requests(self, start: int) -> list[str]:
        """The requests that have labels from the one numbered ``start`` on, by effective time."""
        end = start + _REQUESTS_PER_PIPELINE - 1
        found: list[str] = self._client.call(lambda redis: redis.zrange(self._key("effect"), start, end))
        return found

    def outcomes(self) -> dict[tuple[str, str], int]:
        held, accounts = self._hashes([self._key("outcomes"), ledger.accounts_key(self._tag)], together=True)
        return with_retired(_by_outcome(held), ledger.accounts_of(accounts))

    def accounts(self) -> list[Account]:
        [found] = self._hashes([ledger.accounts_key(self._tag)], together=False)
        return sorted(ledger.accounts_of(found))

    def close(self) -> None:
        self._client.close()

    def _held(self) -> dict[tuple[str, str], int]:
        [found] = self._hashes([self._key("outcomes")], together=False)
        return _by_outcome(found)

    def _hashes(self, keys: Sequence[str], *, together: bool) -> list[Mapping[str, str]]:
        def ask(pipeline: Any) -> None:
            for key in keys:
                pipeline.hgetall(key)

        return self._client.ask(ask, together=together)

    def _key(self, *parts: str) -> str:
        return ":".join((self._tag, *parts))

    def _common(self, scope: str) -> list[str]:
        ours = [ledger.accounts_key(self._tag), ledger.progress_key(self._tag, scope)]
        return [*ours, self._key("outcomes"), self._key("effect")]

    def _run(
        self,
        script: Any,
        partition: int,
        move: ledger.Move,
        accounts: Sequence[Account],
        requests: Sequence[str],
        arguments: Sequence[Any],
    ) -> None:
        _, first = ledger.advance(self._tag, partition, [move], accounts)
        keys = [*self._common(move.scope), *(self._key("request", request) for request in requests)]
        answer = self._client.call(lambda _: script(keys=keys, args=[*first, *arguments]))
        ledger.raise_if_stale(answer, partition, [move])


def _numbered(requests: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    """Distinct request ids, and for each row the number of its own, from 1 as Lua counts."""
    encoded = requests.combine_chunks().dictionary_encode() if len(requests) else pa.array([], pa.string())
    if len(requests) == 0:
        return [], []
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.dictionary.to_pylist(), pc.add(encoded.indices, 1).to_pylist()


def _fields(rows: pa.Table) -> list[str]:
    fields: list[str] = pc.binary_join_element_wise(rows.column("kind"), rows.column("item_id"), _SEPARATOR).to_pylist()
    return fields


def _event_fields(events: pa.Table) -> tuple[list[str], list[str]]:
    """Fields and values of labels that are kept by themselves."""
    place = pc.binary_join_element_wise(*(events.column(n).cast(pa.string()) for n in EVENT_KEY[3:]), ",")
    name = [pa.scalar(""), events.column("kind"), events.column("item_id"), place]
    times = [events.column(name).cast(pa.string()) for name in ("effective_us", "event_time_us")]
    value = [*times, pc.fill_null(events.column("payload"), "")]
    return (
        pc.binary_join_element_wise(*name, _SEPARATOR).to_pylist(),
        pc.binary_join_element_wise(*value, ",").to_pylist(),
    )


def _flat(columns: Sequence[Sequence[Any]]) -> Iterable[Any]:
    return (value for row in zip(*columns, strict=True) for value in row)


def _by_outcome(stored: Mapping[str, str]) -> dict[tuple[str, str], int]:
    counts = {}
    for name, rows in stored.items():
        kind, outcome = name.split(_SEPARATOR)
        if int(rows):
            counts[kind, outcome] = int(rows)
    return counts


def _label_rows(requests: Sequence[str], answers: Sequence[Mapping[str, str]]) -> pa.Table:
    """Hashes as LABEL_ROWS."""
    answers = [{n: v for n, v in answer.items() if not n.startswith(_SEPARATOR)} for answer in answers]
    owners = pa.array([i for i, answer in enumerate(answers) for _ in answer], pa.int64())
    if len(owners) == 0:
        return LABEL_ROWS.empty_table()
    names = pa.array([name for answer in answers for name in answer], pa.string())
    values = pa.array([value for answer in answers for value in answer.values()], pa.string())
    key = pc.split_pattern(names, _SEPARATOR, max_splits=1)
    numbers = pc.split_pattern(values, ",")
    columns = [pa.array(requests, pa.string()).take(owners), pc.list_element(key, 1), pc.list_element(key, 0)]
    columns += [pc.list_element(numbers, i) for i in range(len(ORDER))]
    return pa.table(columns, names=LABEL_ROWS.names).cast(LABEL_ROWS)


def _label_events(requests: Sequence[str], answers: Sequence[Mapping[str, str]]) -> pa.Table:
    """The labels that are kept by themselves in hashes, as LABEL_EVENTS."""
    rows = []
    for request, answer in zip(requests, answers, strict=True):
        for field, value in answer.items():
            if field.startswith(_SEPARATOR):
                _, kind, rest = field.split(_SEPARATOR, 2)
                item, place = rest.rsplit(_SEPARATOR, 1)  # an item may hold anything
                effective, event, payload = value.split(",", 2)
                times = (int(effective), int(event))
                rows.append((request, item, kind, *times, *map(int, place.split(",")), payload or None))
    return as_table(rows, LABEL_EVENTS)
