"""Clients that send a world over HTTP until each call is acknowledged, and what became of all that they were told."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from types import TracebackType
from typing import NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.api.bodies import ARROW, NDJSON
from dovetail.api.idempotence import IDEMPOTENCY_KEY
from dovetail.app.storage import open_stores
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.identity import EVENT_ID_HEADER
from dovetail.platform.rows.positions import OWN_COLUMNS, SourceFilter
from dovetail.platform.stage import Outgoing
from tests.faults.broker import Broker
from tests.faults.fleet import PATIENCE_S, Fleet
from tests.faults.trial import Load
from tests.faults.verdict import Verdict
from tests.faults.world import World

__all__ = ["Acknowledged", "HttpLoad", "Kept", "Place", "bits_of", "judge_told", "kept_of"]

_CLIENTS = 4
_ROWS_PER_CALL = 20
#: Requests that are asked for once more when all is over.
_ASKED_AGAIN = 10
#: The answers after which a client tries again: it is told to come back, or nobody has answered.
_COME_BACK = frozenset({429, 503, 504})


#: Partition and offset.
Place = tuple[int, int]


class Acknowledged(NamedTuple):
    """A row that was acknowledged: its topic, where it is said to be, the name it is known by, and what it is."""

    topic: str
    place: Place
    name: bytes
    value: bytes


class HttpLoad(Load):
    """Sends a world's portions to any process of ``api``, several calls at a time, each until it is answered with 200.

    Events and labels go in calls with a key; announced watermarks, which no call is for, to the broker.
    """

    def __init__(self, world: World, broker: Broker, api: Fleet, seed: int) -> None:
        super().__init__(world, broker)
        self._api = api
        self._random = np.random.default_rng([seed, 4])
        self._client = httpx.Client(timeout=30)
        self._clients = ThreadPoolExecutor(_CLIENTS, "client")
        config = world.project.config
        self._requests_topic = config.request.topic
        self._paths = {stream.topic or name: f"/v1/events/{name}" for name, stream in config.streams.items()}
        self._paths |= {stream.topic or kind: f"/v1/labels/{kind}" for kind, stream in config.labels.streams.items()}
        self._calls = 0
        self.acknowledged: list[Acknowledged] = []
        #: By request, the snapshot that was the answer; and what it was asked by.
        self.told: dict[str, bytes] = {}
        self._asked: dict[str, bytes] = {}
        #: Requests whose second answer was not the first.
        self.told_otherwise: list[str] = []
        #: Calls that were not answered with 200, by what they got.
        self.failed: Counter[str] = Counter()

    def __enter__(self) -> HttpLoad:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clients.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def finish(self) -> None:
        """Send what is left, and ask a few of the requests again."""
        super().finish()
        names = sorted(self._asked)
        for name in self._random.choice(names, min(_ASKED_AGAIN, len(names)), replace=False).tolist():
            self._rank(name, self._asked[name])

    def _send(self, messages: Sequence[Outgoing]) -> None:
        for (topic, says), run in groupby(messages, lambda message: (message.topic, bool(message.value))):
            if not says:
                super()._send(list(run))
            elif topic == self._requests_topic:
                tables = [wire.rows_of(message.value or b"") for message in run]
                rows = pa.concat_tables([table for table in tables if table is not None])
                names, bodies = rows.column("request_id").to_pylist(), wire.encode_json(rows)
                list(self._clients.map(self._rank, names, bodies))
            else:
                values = [message.value or b"" for message in run]
                starts = range(0, len(values), _ROWS_PER_CALL)
                keys = [f"call-{self._calls + start}" for start in starts]
                self._calls += len(values)
                parts = [values[start : start + _ROWS_PER_CALL] for start in starts]
                list(self._clients.map(self._post_rows, [topic] * len(keys), keys, parts))

    def _post_rows(self, topic: str, key: str, rows: Sequence[bytes]) -> None:
        headers = {"content-type": NDJSON, IDEMPOTENCY_KEY: key}
        answer = self._answered(self._paths[topic], b"\n".join(rows), headers).json()
        assert answer["accepted"] == len(rows), answer
        for place in answer["positions"]:
            number = place["row"]
            name = f"{key}/{number}".encode()
            self.acknowledged.append(Acknowledged(topic, (place["partition"], place["offset"]), name, rows[number]))

    def _rank(self, name: str, request: bytes) -> None:
        self._asked[name] = request
        headers = {"content-type": "application/json", "accept": ARROW}
        answer = self._answered("/v1/rank", request, headers).content
        if bits_of(self.told.setdefault(name, answer)) != bits_of(answer):
            self.told_otherwise.append(name)

    def _answered(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """The answer of 200, of whichever process gives it. Raises TimeoutError when none does."""
        pause, end = threading.Event(), time.monotonic() + PATIENCE_S
        while True:
            urls = [url for process in self._api.workers if (url := process.url) is not None and process.alive]
            if urls:
                try:
                    answer = self._client.post(
                        urls[int(time.monotonic_ns()) % len(urls)] + path, content=body, headers=headers
                    )
                except httpx.TransportError as error:
                    said = type(error).__name__
                else:
                    if answer.status_code == 200:
                        return answer
                    said = f"{answer.status_code}: {answer.text}"
                    assert answer.status_code in _COME_BACK, said
                self.failed[said[:200]] += 1
            if time.monotonic() > end:
                raise TimeoutError(f"{path}: not answered within {PATIENCE_S:g} s; {dict(self.failed)}")
            pause.wait(0.1)


class Kept(NamedTuple):
    """What there is at the end: by topic, its messages with the names of their rows, and how often each is archived."""

    messages: Mapping[str, Mapping[Place, tuple[bytes | None, bytes | None]]]
    archived: Mapping[str, Counter[Place]]
    #: By request, the bits of its snapshot.
    snapshots: Mapping[str, list[object]]


def kept_of(world: World, broker: Broker) -> Kept:
    """What topics and archive hold of a world."""
    config = world.project.config
    archived, messages = {}, {}
    stores = open_stores(config)
    try:
        for name, topic in _datasets(world).items():
            rows = read_dataset(stores.registry, stores.offline, name)
            archived[topic] = Counter(zip(*(rows.column(c).to_pylist() for c in OWN_COLUMNS[:2]), strict=True))
            messages[topic] = {
                (poll.partition, offset): (value, dict(headers).get(EVENT_ID_HEADER))
                for poll in broker.read(topic, config.topics()[topic])
                for offset, value, headers in zip(poll.offsets.tolist(), poll.values, poll.headers, strict=True)
            }
    finally:
        stores.close()
    return Kept(messages, archived, _snapshots(config.request.snapshots_topic, config.request.partitions, broker))


def judge_told(
    acknowledged: Sequence[Acknowledged], answers: Mapping[str, bytes], kept: Kept, verdict: Verdict
) -> None:
    """All that was acknowledged is where it is said to be, and counts once; each answer is what its snapshot says."""
    named: defaultdict[tuple[str, bytes | None], list[Place]] = defaultdict(list)
    for topic, messages in kept.messages.items():
        for place, (_, name) in messages.items():
            named[topic, name].append(place)
    lost = [row for row in acknowledged if kept.messages[row.topic].get(row.place) != (row.value, row.name)]
    times = {
        (row.topic, row.name): sum(kept.archived[row.topic][place] for place in named[row.topic, row.name])
        for row in acknowledged
    }
    otherwise = [name for name, answer in answers.items() if bits_of(answer) != kept.snapshots.get(name)]
    verdict.counts["acknowledged rows"], verdict.counts["answers"] = len(acknowledged), len(answers)
    verdict.counts["rows sent again"] = sum(len(named[key]) - 1 for key in times)
    verdict.expect("acknowledged rows that are not where they are said to be", lost, [])
    verdict.expect("acknowledged rows that do not count once", {k: n for k, n in times.items() if n != 1}, {})
    verdict.expect("answers that are not what the snapshot says", otherwise, [])


def _datasets(world: World) -> dict[str, str]:
    """By archived dataset, the topic that clients send its rows to."""
    config = world.project.config
    streams = {name: stream.topic or name for name, stream in config.streams.items()}
    return streams | {kind: stream.topic or kind for kind, stream in config.labels.streams.items()}


def _snapshots(topic: str, partitions: int, broker: Broker) -> dict[str, list[object]]:
    """By request, the bits of its snapshot in the topic; what was published again is dropped."""
    found: dict[str, list[object]] = {}
    seen = SourceFilter()
    for poll in broker.read(topic, partitions):
        rows = spread(wire.decode_arrow(poll))
        rows = rows.filter(pa.array(seen.admit(rows)))
        for name in rows.column("request_id").unique().to_pylist():
            assert name not in found, f"{name} has two snapshots"
            found[name] = _columns(rows.filter(pc.equal(rows.column("request_id"), name)))
    return found


def bits_of(answer: bytes) -> list[object]:
    """Names, types and values of an answer's rows, numbers to the bit."""
    rows = wire.rows_of(answer)
    assert rows is not None
    return _columns(rows)


def _columns(rows: pa.Table) -> list[object]:
    """Names, types and values, numbers to the bit."""
    rows = rows.drop_columns([name for name in OWN_COLUMNS if name in rows.column_names])
    found: list[object] = []
    for name in rows.column_names:
        column = rows.column(name).combine_chunks()
        if pa.types.is_floating(column.type):
            found.append(
                (
                    name,
                    str(column.type),
                    column.view(pa.int64() if column.type.bit_width == 64 else pa.int32()).to_pylist(),
                )
            )
        else:
            found.append((name, str(column.type), column.to_pylist()))
    return found
