"""The snapshot agent: a request in, scores back, and the features as served into the snapshots topic.

A snapshot row keeps, per candidate: the request's own columns (a struct, ``_request``), the streaming and request-time
features, per streaming view the positions its values include (``_seen_<view>``), the score, the model version and the
feature set's name; with a shadow scorer, its score and version too, NULL while it has no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.joiners.attribution import asked_rows
from dovetail.joiners.contracts import FeatureServer, Served, ServingModel
from dovetail.joiners.snapshots.messages import Answers, Replies, fitted
from dovetail.joiners.snapshots.shape import KEYS, REQUEST_COLUMN, SET_COLUMN
from dovetail.joiners.snapshots.units import Request, by_row, request_starts, requests_of, without
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, Progress, seen_column, with_source_positions
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry

__all__ = [
    "SNAPSHOT_SCOPE",
    "Ranking",
    "Remembering",
    "RequestTopic",
    "SnapshotStage",
]

#: Name of the snapshot agent; also of its positions and accounts.
SNAPSHOT_SCOPE = "snapshots"

_TOO_OLD = "request_time is older than the feature state can answer exactly (allowed_lateness)"


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
        refused = dict.fromkeys(requests_of(received.table) - requests_of(candidates), "no candidates")
        outgoing: list[Outgoing] = []
        rows_read, answered = candidates.num_rows, 0
        replies = Replies(poll, self._answers)
        if replies.wrong:
            asking = requests_of(candidates)
            misled = {request: replies.wrong[request[0]] for request in asking if request[0] in replies.wrong}
            refused |= misled
            candidates = without(candidates, misled, OWN_COLUMNS)
        if candidates.num_rows:
            self._ranking.scorer.refresh()
            if self._ranking.shadow is not None:
                self._ranking.shadow.refresh()
            candidates, served, failed = self._serve(candidates)
            refused |= failed
            if served is not None:
                refused |= dict.fromkeys(requests_of(candidates.filter(pa.array(~served.answerable))), _TOO_OLD)
                candidates = candidates.filter(pa.array(served.answerable))
                if candidates.num_rows:
                    made = fitted(poll.partition, self._snapshot(candidates, served), self._answers, replies)
                    refused |= made.large
                    answered = made.snapshots.num_rows
                    outgoing += [*made.messages, *replies.of(made.snapshots).values()]
        dead = [*received.dead, *wire.row_letters(poll, received.table, by_row(received.table, refused))]
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

    def _serve(self, candidates: pa.Table) -> tuple[pa.Table, Served | None, dict[Request, str]]:
        """Serve all requests but those for which an expression has no value; these are found by halving."""
        bounds = [*request_starts(candidates, OWN_COLUMNS), candidates.num_rows]

        def rows_of(requests: Sequence[int]) -> pa.Table:
            return candidates.slice(bounds[requests[0]], bounds[requests[-1] + 1] - bounds[requests[0]])

        def serve(requests: Sequence[int]) -> Served:
            return self._ranking.features.serve(rows_of(requests))

        runs, failed = halved(range(len(bounds) - 1), serve)
        for _, error in failed:
            if not isinstance(error, WireError):  # no expression's doing
                raise error
        refused = {at: str(error) for number, error in failed for at in requests_of(rows_of([number]))}
        if len(runs) == 1:
            return rows_of(runs[0][0]), runs[0][1], refused
        good = pa.concat_tables([rows_of(requests) for requests, _ in runs] or [candidates.slice(0, 0)])
        good = good.combine_chunks()
        return good, self._ranking.features.serve(good) if good.num_rows else None, refused

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


def _constant(value: pa.Scalar, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(value, rows)])
