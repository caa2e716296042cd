"""The snapshot agent: a request in, scores back, and the features as served into the snapshots topic.

A snapshot row keeps, per candidate: the request's own columns (``request`` struct), the streaming and request-time
features, per streaming view the positions its values include (``_seen_<view>``), the score, the model version and the
feature set's name; with a shadow scorer, its score and version too, NULL while it has no model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dovetail.joiners.attribution import asked_rows
from dovetail.joiners.contracts import FeatureServer, Scorer, Served
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform import wire
from dovetail.platform.accounts import READ, Account
from dovetail.platform.errors import WireError
from dovetail.platform.intake import Intake
from dovetail.platform.positions import OWN_COLUMNS, SOURCE_COLUMNS, with_source_positions
from dovetail.platform.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.ledger import Progress
from dovetail.platform.stores.registry import Registry
from dovetail.platform.wire import DeadLetter

__all__ = [
    "REPLY_HEADER",
    "REQUEST_COLUMN",
    "SET_COLUMN",
    "SNAPSHOT_SCOPE",
    "SnapshotStage",
    "request_rows",
    "seen_column",
]

#: Name of the snapshot agent; also of its positions and accounts.
SNAPSHOT_SCOPE = "snapshots"

#: A request message with this header gets its scores as a JSON message to the topic the header names.
REPLY_HEADER = "dovetail-reply-to"
#: The struct column of a snapshot that holds the request's own columns.
REQUEST_COLUMN = "request"
#: The column of a snapshot that names the feature set which made it.
SET_COLUMN = "_feature_set"
_KEYS = ("request_id", "item_id", "request_time")
_TOO_OLD = "request_time is older than the feature state can answer exactly (allowed_lateness)"
#: Offset and row of a request in its partition.
_Request = tuple[int, int]


def seen_column(view: str) -> str:
    """The snapshot column with the positions that ``view``'s values include: list<int64>, by partition."""
    return f"_seen_{view}"


def request_rows(snapshots: pa.Table) -> pa.Table:
    """The flattened request rows that ``snapshots`` were taken for, in the same order."""
    struct = snapshots.column(REQUEST_COLUMN).combine_chunks()
    rest = pa.Table.from_arrays(struct.flatten(), names=[field.name for field in struct.type])
    columns = {name: snapshots.column(name) for name in _KEYS}
    return pa.table({**columns, **dict(zip(rest.column_names, rest.columns, strict=True))})


class SnapshotStage(Stage):
    """Answers requests and publishes their snapshots, to the same partition the request came from.

    ``flatten`` turns request rows into candidate rows (one per candidate, position columns kept). A request that has no
    candidates, is older than the state can answer exactly, or for which an expression has no value, is a dead letter.
    """

    def __init__(
        self,
        topic: str,
        snapshots_topic: str,
        intake: Intake,
        flatten: Callable[[pa.Table], pa.Table],
        server: FeatureServer,
        scorer: Scorer,
        registry: Registry,
        *,
        dead_letter_topic: str,
        feature_set: str = "",
        rows_per_message: int = 20_000,
        shadow: Scorer | None = None,
        remember: bool = False,
        allowed_lateness_us: int = 0,
        moved: Signal | None = None,
    ) -> None:
        """``remember``: keep the requests by user, for labels that name no request; ``moved`` is sent when it has.

        ``allowed_lateness_us``: how far the requests of a partition may be out of order for that.
        """
        self.name = SNAPSHOT_SCOPE
        self.topics = (topic,)
        self._snapshots_topic = snapshots_topic
        self._intake = intake
        self._flatten = flatten
        self._server = server
        self._scorer = scorer
        self._shadow = shadow
        self._registry = registry
        self._dead_letter_topic = dead_letter_topic
        self._feature_set = feature_set
        self._rows_per_message = rows_per_message
        self._remember = remember
        self._allowed_lateness_us = allowed_lateness_us
        self._moved = moved
        self._progress: dict[int, Progress] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._registry.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        yield await asyncio.to_thread(self._answer, poll)

    def _answer(self, poll: Poll) -> Work:
        received = self._intake.read(poll)
        candidates = self._flatten(received.table)
        refused = dict.fromkeys(_requests(received.table) - _requests(candidates), "no candidates")
        outgoing: list[Outgoing] = []
        rows_read, answered = candidates.num_rows, 0
        if rows_read:
            self._scorer.refresh()
            if self._shadow is not None:
                self._shadow.refresh()
            candidates, served, failed = self._serve(candidates)
            refused |= failed
            if served is not None:
                refused |= dict.fromkeys(_requests(candidates.filter(pa.array(~served.answerable))), _TOO_OLD)
                candidates = candidates.filter(pa.array(served.answerable))
                answered = candidates.num_rows
                if answered:
                    snapshots = self._snapshot(candidates, served)
                    outgoing += [*self._messages(poll.partition, snapshots), *_replies(poll, snapshots)]
        dead = [*received.dead, *_letters(received.table, refused)]
        outgoing += wire.letters_to_outgoing(self._dead_letter_topic, poll, dead, self.name)
        requests = received.table.num_rows + received.dead_rows
        dead_rows = sum(letter.rows for letter in dead)
        counts = {
            (self.name, READ): requests,
            (self.name, "snapshotted"): requests - dead_rows,
            (self.name, "dead_letter"): dead_rows,
            (f"{self.name}.candidates", READ): rows_read,
            (f"{self.name}.candidates", "snapshotted"): answered,
            (f"{self.name}.candidates", "dead_letter"): rows_read - answered,
        }
        accounts = [Account(stage, poll.topic, poll.partition, what, rows) for (stage, what), rows in counts.items()]
        before = self._progress.get(poll.partition, Progress())
        progress = progress_after(poll, received, "request_time", before)
        asked = None
        if self._remember:
            known_us = known_times_us(received, "request_time", before, self._allowed_lateness_us)
            asked = asked_rows(received.table, known_us, self._flatten)

        def commit() -> None:
            self._registry.commit(
                self.name,
                poll.partition,
                expected=before.next_offset,
                progress=progress,
                accounts=accounts,
                asked=asked,
            )
            self._progress[poll.partition] = progress
            if self._moved is not None:
                self._moved.send()

        return Work(outgoing=outgoing, commit=commit, done=poll.last + 1)

    def _serve(self, candidates: pa.Table) -> tuple[pa.Table, Served | None, dict[_Request, str]]:
        """Serve all requests but those for which an expression has no value; these are found by halving."""
        try:
            return candidates, self._server.serve(candidates), {}
        except WireError as error:
            starts = _request_starts(candidates, OWN_COLUMNS)
            if len(starts) == 1:
                return candidates.slice(0, 0), None, dict.fromkeys(_requests(candidates), str(error))
        middle = starts[len(starts) // 2]
        left, _, failed_left = self._serve(candidates.slice(0, middle))
        right, _, failed_right = self._serve(candidates.slice(middle))
        good = pa.concat_tables([left, right]).combine_chunks()
        return good, self._server.serve(good) if good.num_rows else None, failed_left | failed_right

    def _snapshot(self, candidates: pa.Table, served: Served) -> pa.Table:
        """Snapshot rows of the answerable ``candidates``, scored."""
        features = served.features.filter(pa.array(served.answerable))
        version, scores = self._scorer.score(features)
        own = [name for name in candidates.column_names if name not in (*_KEYS, *OWN_COLUMNS, *SOURCE_COLUMNS)]
        struct = pa.StructArray.from_arrays([candidates.column(name).combine_chunks() for name in own], names=own)
        columns = {name: candidates.column(name) for name in _KEYS}
        columns[REQUEST_COLUMN] = pa.chunked_array([struct])
        columns |= {name: features.column(name) for name in served.snapshot_columns if name not in columns}
        columns["score"] = pa.chunked_array([pa.array(scores, pa.float32())])
        columns["model_version"] = _constant(pa.scalar(version, pa.int64()), len(candidates))
        if self._shadow is not None:
            version, scores = self._shadow.score(features)
            none = np.full(len(candidates), version == 0)
            columns["shadow_score"] = pa.chunked_array([pa.array(scores, pa.float32(), mask=none)])
            columns["shadow_version"] = pa.chunked_array(
                [pa.array(np.full(len(candidates), version), pa.int64(), mask=none)]
            )
        columns[SET_COLUMN] = _constant(pa.scalar(self._feature_set), len(candidates))
        for view, offsets in served.seen.items():
            columns[seen_column(view)] = _constant(pa.scalar(list(offsets), pa.list_(pa.int64())), len(candidates))
        columns |= {name: candidates.column(name) for name in OWN_COLUMNS}
        return with_source_positions(pa.table(columns))

    def _messages(self, partition: int, snapshots: pa.Table) -> list[Outgoing]:
        """Whole requests together, several to a message."""
        starts = _request_starts(snapshots, SOURCE_COLUMNS)
        cuts = [0]
        for start, end in pairwise([*starts, snapshots.num_rows]):
            if end - cuts[-1] > self._rows_per_message and start > cuts[-1]:
                cuts.append(start)
        cuts.append(snapshots.num_rows)
        return [
            Outgoing(self._snapshots_topic, wire.encode(snapshots.slice(a, b - a)), partition=partition)
            for a, b in pairwise(cuts)
        ]


def _request_starts(rows: pa.Table, position: Sequence[str]) -> list[int]:
    """Row index at which each request begins, by its position columns (rows of a request stand together)."""
    at = np.stack([rows.column(name).to_numpy() for name in position[1:]])
    changes = np.concatenate(([True], (at[:, 1:] != at[:, :-1]).any(axis=0)))
    return [int(i) for i in np.flatnonzero(changes)]


def _requests(rows: pa.Table) -> set[_Request]:
    """The requests that ``rows`` (of one partition) belong to."""
    pairs = np.stack([rows.column(name).to_numpy() for name in OWN_COLUMNS[1:]], axis=1)
    return {(int(offset), int(row)) for offset, row in np.unique(pairs, axis=0)}


def _letters(requests: pa.Table, refused: Mapping[_Request, str]) -> list[DeadLetter]:
    """A dead letter for each refused request: the request as one Arrow row, whatever it came as."""
    letters = []
    for (offset, row), reason in sorted(refused.items()):
        at = (requests.column("_offset").to_numpy() == offset) & (requests.column("_row").to_numpy() == row)
        value = wire.encode(requests.filter(pa.array(at)).drop_columns(list(OWN_COLUMNS)))
        letters.append(DeadLetter(offset, reason, 1, value))
    return letters


def _constant(value: pa.Scalar, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(value, rows)])


def _replies(poll: Poll, snapshots: pa.Table) -> list[Outgoing]:
    """Scores for the requests that asked for an answer."""
    asked = {
        int(poll.offsets[index]): value.decode()
        for index, headers in enumerate(poll.headers)
        for name, value in headers
        if name == REPLY_HEADER
    }
    if not asked:
        return []
    replies = []
    starts = _request_starts(snapshots, SOURCE_COLUMNS)
    for start, end in pairwise([*starts, snapshots.num_rows]):
        rows: Sequence[dict[str, object]] = (
            snapshots.slice(start, end - start)
            .select(["request_id", "item_id", "score", "model_version", "_source_offset"])
            .to_pylist()
        )
        topic = asked.get(int(str(rows[0]["_source_offset"])))
        if topic:
            answer = {
                "request_id": rows[0]["request_id"],
                "model_version": rows[0]["model_version"],
                "items": [row["item_id"] for row in rows],
                "scores": [row["score"] for row in rows],
            }
            key = str(rows[0]["request_id"]).encode()
            replies.append(Outgoing(topic, json.dumps(answer).encode(), key=key))
    return replies
