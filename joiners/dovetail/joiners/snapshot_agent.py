"""The snapshot agent: a request in, scores back, and the features as served into the snapshots topic.

A snapshot row keeps, per candidate: the request's own columns (a struct, ``_request``), the streaming and request-time
features, per streaming view the positions its values include (``_seen_<view>``), the score, the model version and the
feature set's name; with a shadow scorer, its score and version too, NULL while it has no model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.attribution import asked_rows
from dovetail.joiners.contracts import FeatureServer, Served, ServingModel
from dovetail.joiners.snapshots.shape import KEYS, REQUEST_COLUMN, SET_COLUMN
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.fitting import units_above, wire_size
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, Progress, seen_column, with_source_positions
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry

__all__ = [
    "REPLY_HEADER",
    "SNAPSHOT_SCOPE",
    "Answers",
    "Ranking",
    "Remembering",
    "RequestTopic",
    "SnapshotStage",
]

#: Name of the snapshot agent; also of its positions and accounts.
SNAPSHOT_SCOPE = "snapshots"

#: A request message with this header gets its scores as a JSON message to the topic the header names, which must be
#: one of ``request.reply_topics``.
REPLY_HEADER = "dovetail-reply-to"
_TOO_OLD = "request_time is older than the feature state can answer exactly (allowed_lateness)"
#: Offset and row of a request in its partition.
_Request = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RequestTopic:
    """The requests that are answered: their topic, what refuses bad ones, and what makes candidates of them.

    ``flatten`` turns request rows into candidate rows, one per candidate, position columns kept.
    """

    topic: str
    intake: Intake
    flatten: Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The parts that answer a request: features, the serving model and, if there is one, the shadow beside it.

    ``feature_set`` is the name that snapshots carry. ``warm`` are called once, in a thread, before the first poll: they
    compile what serving and scoring run.
    """

    features: FeatureServer
    scorer: ServingModel
    shadow: ServingModel | None = None
    feature_set: str = ""
    warm: Sequence[Callable[[], None]] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """Where answers go: snapshots, dead letters, the topics that scores may be asked for in; and their largest size.

    Whole requests go together in a message, several as long as it has no more than ``rows_per_message`` rows.
    """

    snapshots_topic: str
    dead_letter_topic: str
    reply_topics: Collection[str] = ()
    max_message_bytes: int = 16 << 20
    rows_per_message: int = 20_000


@dataclass(frozen=True, slots=True)
class Remembering:
    """Requests are kept by user, for labels that name no request; ``moved`` is sent when some have been.

    ``allowed_lateness_us`` is how far the requests of a partition may be out of order for that.
    """

    allowed_lateness_us: int
    moved: Signal


class SnapshotStage(Stage):
    """Answers requests and publishes their snapshots, to the same partition the request came from.

    A request that has no candidates, is older than the state can answer exactly, or for which an expression has no
    value, is a dead letter. So is one that asks for its scores in a topic that is not one of the answers'
    ``reply_topics``, and one whose snapshot or scores are too large for the broker: it is not answered. A snapshot is
    too large from seven eighths of ``max_message_bytes`` on, so that what later stages add to its rows still fits.
    """

    def __init__(
        self,
        requests: RequestTopic,
        ranking: Ranking,
        answers: Answers,
        registry: Registry,
        *,
        remembering: Remembering | None = None,
    ) -> None:
        self.name = SNAPSHOT_SCOPE
        self.topics = (requests.topic,)
        self._intake = requests.intake
        self.refusals = requests.intake.refusals
        self._flatten = requests.flatten
        self._ranking = ranking
        self._answers = answers
        self._registry = registry
        self._remembering = remembering
        self._progress: dict[int, Progress] = {}
        self._snapshot_limit = answers.max_message_bytes // 8 * 7

    async def start(self) -> None:
        for warm in self._ranking.warm:
            await asyncio.to_thread(warm)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._registry.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        yield await compute(self._answer, poll)

    def probe(self, poll: Poll) -> None:
        self._answer(poll)

    def _answer(self, poll: Poll) -> Work:
        received = self._intake.read(poll)
        candidates = self._flatten(received.table)
        refused = dict.fromkeys(_requests(received.table) - _requests(candidates), "no candidates")
        outgoing: list[Outgoing] = []
        rows_read, answered = candidates.num_rows, 0
        asked, wrong = self._asked(poll)
        if wrong:
            misled = {request: wrong[request[0]] for request in _requests(candidates) if request[0] in wrong}
            refused |= misled
            candidates = _without(candidates, misled, OWN_COLUMNS)
        if candidates.num_rows:
            self._ranking.scorer.refresh()
            if self._ranking.shadow is not None:
                self._ranking.shadow.refresh()
            candidates, served, failed = self._serve(candidates)
            refused |= failed
            if served is not None:
                refused |= dict.fromkeys(_requests(candidates.filter(pa.array(~served.answerable))), _TOO_OLD)
                candidates = candidates.filter(pa.array(served.answerable))
                if candidates.num_rows:
                    answers, large = self._fit(poll.partition, self._snapshot(candidates, served), asked)
                    refused |= large
                    answered = _without(candidates, large, OWN_COLUMNS).num_rows
                    outgoing += answers
        dead = [*received.dead, *wire.row_letters(poll, received.table, _by_row(received.table, refused))]
        outgoing += wire.letters_to_outgoing(self._answers.dead_letter_topic, poll, dead, self.name)
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
        remembered: pa.Table | None = None
        if self._remembering is not None:
            known_us = known_times_us(received, "request_time", before, self._remembering.allowed_lateness_us)
            remembered = asked_rows(received.table, known_us, self._flatten)

        def commit() -> None:
            self._registry.commit(
                self.name,
                poll.partition,
                expected=before.next_offset,
                progress=progress,
                accounts=accounts,
                asked=remembered,
            )
            self._progress[poll.partition] = progress
            if self._remembering is not None:
                self._remembering.moved.send()

        return Work(outgoing=outgoing, commit=commit, done=poll.last + 1)

    def _serve(self, candidates: pa.Table) -> tuple[pa.Table, Served | None, dict[_Request, str]]:
        """Serve all requests but those for which an expression has no value; these are found by halving."""
        try:
            return candidates, self._ranking.features.serve(candidates), {}
        except WireError as error:
            starts = _request_starts(candidates, OWN_COLUMNS)
            if len(starts) == 1:
                return candidates.slice(0, 0), None, dict.fromkeys(_requests(candidates), str(error))
        middle = starts[len(starts) // 2]
        left, _, failed_left = self._serve(candidates.slice(0, middle))
        right, _, failed_right = self._serve(candidates.slice(middle))
        good = pa.concat_tables([left, right]).combine_chunks()
        return good, self._ranking.features.serve(good) if good.num_rows else None, failed_left | failed_right

    def _snapshot(self, candidates: pa.Table, served: Served) -> pa.Table:
        """Snapshot rows of the answerable ``candidates``, scored."""
        features = served.features.filter(pa.array(served.answerable))
        version, scores = self._ranking.scorer.score(features)
        own = [name for name in candidates.column_names if name not in (*KEYS, *OWN_COLUMNS, *SOURCE_COLUMNS)]
        struct = pa.StructArray.from_arrays([candidates.column(name).combine_chunks() for name in own], names=own)
        columns = {name: candidates.column(name) for name in KEYS}
        columns[REQUEST_COLUMN] = pa.chunked_array([struct])
        columns |= {name: features.column(name) for name in served.snapshot_columns if name not in columns}
        columns["score"] = pa.chunked_array([pa.array(scores, pa.float32())])
        columns["model_version"] = _constant(pa.scalar(version, pa.int64()), len(candidates))
        if self._ranking.shadow is not None:
            version, scores = self._ranking.shadow.score(features)
            none = np.full(len(candidates), version == 0)
            columns["shadow_score"] = pa.chunked_array([pa.array(scores, pa.float32(), mask=none)])
            columns["shadow_version"] = pa.chunked_array(
                [pa.array(np.full(len(candidates), version), pa.int64(), mask=none)]
            )
        columns[SET_COLUMN] = _constant(pa.scalar(self._ranking.feature_set), len(candidates))
        for view, offsets in served.seen.items():
            columns[seen_column(view)] = _constant(pa.scalar(list(offsets), pa.list_(pa.int64())), len(candidates))
        columns |= {name: candidates.column(name) for name in OWN_COLUMNS}
        return with_source_positions(pa.table(columns))

    def _fit(
        self, partition: int, snapshots: pa.Table, asked: Mapping[int, str]
    ) -> tuple[list[Outgoing], dict[_Request, str]]:
        """The messages that publish ``snapshots``, and the requests that are too large for one."""
        messages = self._messages(partition, snapshots)
        replies = _replies(asked, snapshots)
        large = {
            request: _too_large("snapshot", wire_size(self._message(partition, unit)), self._snapshot_limit)
            for message in messages
            for unit in units_above(message, self._snapshot_limit)
            for request in _requests(unit, SOURCE_COLUMNS)
        }
        for request, reply in replies.items():
            if wire_size(reply) > self._answers.max_message_bytes:
                why = _too_large("list of scores", wire_size(reply), self._answers.max_message_bytes)
                large.setdefault(request, why)
        if large:
            messages = self._messages(partition, _without(snapshots, large, SOURCE_COLUMNS))
        return [*messages, *(reply for request, reply in replies.items() if request not in large)], large

    def _messages(self, partition: int, snapshots: pa.Table) -> list[Outgoing]:
        """Whole requests together, several to a message."""
        if snapshots.num_rows == 0:
            return []
        starts = _request_starts(snapshots, SOURCE_COLUMNS)
        cuts = [0]
        for start, end in pairwise([*starts, snapshots.num_rows]):
            if end - cuts[-1] > self._answers.rows_per_message and start > cuts[-1]:
                cuts.append(start)
        cuts.append(snapshots.num_rows)
        return [self._message(partition, snapshots.slice(a, b - a)) for a, b in pairwise(cuts)]

    def _message(self, partition: int, snapshots: pa.Table) -> Outgoing:
        return Outgoing(self._answers.snapshots_topic, wire.encode(snapshots), partition=partition)

    def _asked(self, poll: Poll) -> tuple[dict[int, str], dict[int, str]]:
        """By offset: the topics that want scores; and what is wrong where a header names another topic."""
        asked, wrong = {}, {}
        for index, headers in enumerate(poll.headers):
            for name, value in headers:
                if name == REPLY_HEADER:
                    # A header may have no value, whatever its type says.
                    offset, topic = int(poll.offsets[index]), (value or b"").decode(errors="replace")
                    if topic in self._answers.reply_topics:
                        asked[offset] = topic
                    else:
                        wrong[offset] = f"its scores are asked for in topic {topic!r}, not one of request.reply_topics"
        return asked, wrong


def _too_large(what: str, size: int, limit: int) -> str:
    return (
        f"the request's {what} would be {size} bytes, {limit} are allowed: ask for fewer candidates, or raise "
        "broker.max_message_bytes"
    )


def _request_starts(rows: pa.Table, position: Sequence[str]) -> list[int]:
    """Row index at which each request begins, by its position columns (rows of a request stand together)."""
    at = np.stack([rows.column(name).to_numpy() for name in position[1:]])
    changes = np.concatenate(([True], (at[:, 1:] != at[:, :-1]).any(axis=0)))
    return [int(i) for i in np.flatnonzero(changes)]


def _requests(rows: pa.Table, position: Sequence[str] = OWN_COLUMNS) -> set[_Request]:
    """The requests that ``rows`` (of one partition) belong to, by their position columns."""
    pairs = np.stack([rows.column(name).to_numpy() for name in position[1:]], axis=1)
    return {(int(offset), int(row)) for offset, row in np.unique(pairs, axis=0)}


def _of(rows: pa.Table, request: _Request, position: Sequence[str]) -> npt.NDArray[np.bool_]:
    """A mask over ``rows``: those of ``request``."""
    mask: npt.NDArray[np.bool_] = (rows.column(position[1]).to_numpy() == request[0]) & (
        rows.column(position[2]).to_numpy() == request[1]
    )
    return mask


def _without(rows: pa.Table, requests: Iterable[_Request], position: Sequence[str]) -> pa.Table:
    """``rows`` but those of ``requests``."""
    kept = np.ones(rows.num_rows, dtype=np.bool_)
    for request in requests:
        kept &= ~_of(rows, request, position)
    return rows.filter(pa.array(kept)).combine_chunks()


def _by_row(requests: pa.Table, refused: Mapping[_Request, str]) -> dict[int, str]:
    """Why requests are refused, by their row in ``requests``."""
    at = zip(*(requests.column(name).to_pylist() for name in OWN_COLUMNS[1:]), strict=True)
    return {row: refused[request] for row, request in enumerate(at) if request in refused} if refused else {}


def _constant(value: pa.Scalar, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(value, rows)])


def _replies(asked: Mapping[int, str], snapshots: pa.Table) -> dict[_Request, Outgoing]:
    """Scores for the requests in messages, by offset, that ``asked`` for an answer in a topic."""
    if not asked:
        return {}
    replies = {}
    starts = _request_starts(snapshots, SOURCE_COLUMNS)
    for start, end in pairwise([*starts, snapshots.num_rows]):
        mine = snapshots.slice(start, end - start)
        ((offset, row),) = _requests(mine, SOURCE_COLUMNS)
        if offset not in asked:
            continue
        rows: Sequence[dict[str, object]] = mine.select(["request_id", "item_id", "score", "model_version"]).to_pylist()
        answer = {
            "request_id": rows[0]["request_id"],
            "model_version": rows[0]["model_version"],
            "items": [item["item_id"] for item in rows],
            "scores": [item["score"] for item in rows],
        }
        key = str(rows[0]["request_id"]).encode()
        replies[offset, row] = Outgoing(asked[offset], json.dumps(answer).encode(), key=key)
    return replies
