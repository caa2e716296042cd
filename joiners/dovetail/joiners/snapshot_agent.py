"""The snapshot agent: a request in, scores back, and the features as served into the snapshots topic.

A snapshot row keeps, per candidate: the request's own columns (a struct, ``_request``), the streaming and request-time
features, per streaming view the positions its values include (``_seen_<view>``), the score, the model version, the
feature set's name and the mark of the label meaning (``meanings/``); with a shadow scorer, its score and version too,
NULL while it has no model; with an experiment, its name, the arm and the user's draw (``snapshots/arms.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.attribution import asked_rows
from dovetail.joiners.contracts import TOO_OLD, FeatureServer, Served, ServingModel
from dovetail.joiners.snapshots.answered import Answered, Counts
from dovetail.joiners.snapshots.arms import Experiment
from dovetail.joiners.snapshots.composing import ServingModels, snapshot_rows
from dovetail.joiners.snapshots.kept import NOTHING_KEPT, Behind, Kept, SnapshotLog, find_snapshots
from dovetail.joiners.snapshots.messages import Answers, Fitted, Replies, fitted
from dovetail.joiners.snapshots.parts import parts_of
from dovetail.joiners.snapshots.repeats import NO_REPEATS, Repeats, find_repeats
from dovetail.joiners.snapshots.units import Request, among, by_row, only, request_starts, requests_of, without
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform.config.served.scenes import in_scene
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.intake import Intake, Received
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, Progress
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.remembered import RequestMemory
from dovetail.platform.stores.registry.store import Registry

__all__ = [
    "SNAPSHOT_SCOPE",
    "Ranking",
    "Remembering",
    "RequestTopic",
    "SnapshotStage",
]

_NOBODY: Request = (-1, 0)
#: Nobody has looked yet whether there are snapshots behind the committed position.
_UNKNOWN = object()
#: Name of the snapshot agent; also of its positions and accounts.
SNAPSHOT_SCOPE = "snapshots"

_REFUSED_BEFORE = "it was refused when it was first read, before a worker died, and later requests were answered since"


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
    """The parts that answer a request: features, the serving model, the shadow beside it and the running experiment.

    ``feature_set`` is the name that snapshots carry, ``meaning`` the mark of the label meaning in force. ``warm`` are
    called once, in a thread, before the first poll: they compile what serving and scoring run.
    """

    features: FeatureServer
    scorer: ServingModel
    shadow: ServingModel | None = None
    experiment: Experiment | None = None
    feature_set: str = ""
    meaning: int | None = None
    warm: Sequence[Callable[[], None]] = ()

    @property
    def models(self) -> ServingModels:
        """All that score."""
        return ServingModels(self.scorer, self.shadow, self.experiment)


@dataclass(frozen=True, slots=True)
class Remembering:
    """Requests are kept by user, for labels that name no request; ``moved`` is sent when some have been.

    ``allowed_lateness_us`` is how far the requests of a partition may be out of order for that.
    """

    allowed_lateness_us: int
    moved: Signal


class _Ahead(NamedTuple):
    """What was answered of a poll while it waited: of what was received of it, in replies that it asks for."""

    received: Received
    replies: Replies
    answered: Answered


class _Told(NamedTuple):
    """Repetitions by what becomes of them: replies, why some are refused, and those that want no scores."""

    replies: dict[Request, Outgoing]
    refused: dict[Request, str]
    silent: set[Request]


class SnapshotStage(Stage):
    """Answers requests and publishes their snapshots, to the same partition the request came from.

    Scores are sent when the broker has the snapshot that says the same. A request that is read again after a crash is
    answered from the snapshot that is in the topic already (``snapshots/kept.py``), so what anybody was told is kept.

    Where a window is declared, a request whose id came before in it is a duplicate: it gets the scores that the first
    got, and no snapshot (``snapshots/repeats.py``).

    A request that has no candidates, is older than the state can answer exactly, or for which an expression has no
    value, is a dead letter. So is one that asks for its scores in a topic that is not one of the answers'
    ``reply_topics``, and one whose snapshot or scores are too large for the broker: it is not answered. A snapshot is
    too large from seven eighths of ``max_message_bytes`` on, so that what later stages add to its rows still fits.

    A poll is answered in parts of so many candidates, each committed by itself: who asks for much delays nobody for
    longer than that, and the memory it takes is bounded.
    """

    looks_ahead = True

    def __init__(
        self,
        requests: RequestTopic,
        ranking: Ranking,
        answers: Answers,
        registry: Registry,
        *,
        remembering: Remembering | None = None,
        snapshots: SnapshotLog | None = None,
        unique_within_us: int | None = None,
        scene: str = "",
    ) -> None:
        """``snapshots``: the topic they go to, to be read again after a crash. Without it, requests that are read
        again are answered anew. ``unique_within_us``: how long a request is known by its id; None: each is another.
        ``scene``: whose requests they are; its positions and accounts have its name.
        """
        self.name = in_scene(SNAPSHOT_SCOPE, scene)
        self._scene = scene
        self.topics = (requests.topic,)
        self._intake = requests.intake
        self.refusals = requests.intake.refusals
        self._flatten = requests.flatten
        self._ranking = ranking
        self._answers = answers
        self._registry = registry
        self._remembering = remembering
        self._snapshots = snapshots
        self._unique_within_us = unique_within_us
        self._progress: dict[int, Progress] = {}
        # By partition: the snapshots that lie behind the committed position; None when there are no more.
        self._behind: dict[int, Behind | None] = {}

    async def start(self) -> None:
        for warm in self._ranking.warm:
            await asyncio.to_thread(warm)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._registry.progress(self.name))
        self._behind = {}
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._behind.pop(partition, None)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        works, further = await compute(self._first_works, poll)
        for work in works:
            yield work
        for part, received in further:
            for work in await compute(self._next_works, part, received):
                yield work

    def probe(self, poll: Poll) -> None:
        for part, received in self._parts(poll):
            self._works(part, received, NOTHING_KEPT)

    def ahead(self, poll: Poll) -> None:
        """Answer a poll in one part, where no ids that came before and no snapshots of an earlier life matter."""
        behind = None if self._snapshots is None else self._behind.get(poll.partition, _UNKNOWN)
        if behind is not None or self._unique_within_us is not None:
            return
        (_, received), *further = self._parts(poll)
        if not further:
            replies = Replies(poll, self._answers)
            answered = self._answer(poll.partition, received.table, replies, NOTHING_KEPT)
            poll.shared[SnapshotStage.ahead] = _Ahead(received, replies, answered)

    def _parts(self, poll: Poll) -> list[tuple[Poll, Received]]:
        return parts_of(poll, self._intake.read(poll), self._answers.rows_per_commit)

    def _first_works(self, poll: Poll) -> tuple[list[Work], list[tuple[Poll, Received]]]:
        """The works of the first part of a poll, and the further parts, whose works build on them."""
        first, *further = self._parts(poll)
        return self._next_works(*first), further

    def _next_works(self, poll: Poll, received: Received) -> list[Work]:
        return self._works(poll, received, self._kept(poll))

    def _works(self, poll: Poll, received: Received, kept: Kept) -> list[Work]:
        """Snapshots, if new ones are made; then, when the broker has them, replies and dead letters, and the commit."""
        before = self._progress.get(poll.partition, Progress())
        repeats = self._repeats(poll.partition, received, before, kept)
        firsts = without(received.table, repeats.requests, OWN_COLUMNS)
        known: _Ahead | None = poll.shared.pop(SnapshotStage.ahead, None)
        if known is not None and known.received is received and kept is NOTHING_KEPT and repeats is NO_REPEATS:
            replies, answered = known.replies, known.answered
        else:
            replies = Replies(poll, self._answers)
            answered = self._answer(poll.partition, firsts, replies, kept)
        told = self._tell_again(poll.partition, repeats, answered, replies)
        sent = replies.of(answered.scored) | told.replies
        refused = by_row(received.table, answered.refused | told.refused)
        dead = [*received.dead, *wire.row_letters(poll, received.table, refused)]
        outgoing = [reply for _, reply in sorted(sent.items())]
        outgoing += wire.letters_to_outgoing(self._answers.dead_letter_topic, poll, dead, self.name)
        outgoing += replies.refusals(received.dead, received.table, answered.refused | told.refused)
        counts = Counts(received, answered, sum(letter.rows for letter in dead), len(told.replies) + len(told.silent))
        accounts = counts.accounts(self.name, poll)
        progress = progress_after(poll, received, "request_time", before)
        memory: RequestMemory | None = None
        if self._unique_within_us is not None and progress.watermark_us is not None:
            memory = repeats.memory(answered.requests, progress.watermark_us - self._unique_within_us)
            memory = memory._replace(scene=self._scene)
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
                memory=memory,
            )
            self._progress[poll.partition] = progress
            if self._remembering is not None:
                self._remembering.moved.send()

        if not sent:
            return [Work([*answered.messages, *outgoing], commit, poll.last + 1)]
        # Nobody is told scores before the broker has the snapshot that says the same.
        snapshots = [Work(answered.messages)] if answered.messages else []
        return [*snapshots, Work(outgoing, commit, poll.last + 1)]

    def _kept(self, poll: Poll) -> Kept:
        """The snapshots of the poll's requests that an earlier life has published and not committed."""
        partition = poll.partition
        if self._snapshots is None:
            return NOTHING_KEPT
        if partition not in self._behind:
            committed = self._progress.get(partition, Progress()).next_offset
            self._behind[partition] = Behind(self._snapshots, partition, committed)
        behind = self._behind[partition]
        if behind is None:
            return NOTHING_KEPT
        kept = behind.between(poll.first, poll.last)
        if behind.exhausted:
            self._behind[partition] = None
        return kept

    def _repeats(self, partition: int, received: Received, before: Progress, kept: Kept) -> Repeats:
        if self._unique_within_us is None:
            return NO_REPEATS
        known_us = known_times_us(received, "request_time", before, 0)
        recall = partial(self._registry.remembered, partition, scene=self._scene)
        itself = () if kept.rows is None else requests_of(kept.rows, SOURCE_COLUMNS)
        return find_repeats(received.table, known_us, self._unique_within_us, recall, itself)

    def _tell_again(self, partition: int, repeats: Repeats, answered: Answered, replies: Replies) -> _Told:
        """Answer repetitions as their firsts were: by replies, or by refusing them."""
        told = _Told({}, {}, set())
        firsts = repeats.first_of(answered.requests)
        wanted = {first for at, (first, good) in firsts.items() if good and replies.wanted(at)}
        earlier = wanted - answered.requests
        sources = [rows for rows in (answered.scored, self._found(partition, earlier)) if rows is not None]
        for at, (first, good) in firsts.items():
            where = f"partition {partition}, offset {first[0]}"
            if at[0] in replies.wrong:
                told.refused[at] = replies.wrong[at[0]]
            elif not good:
                told.refused[at] = f"it repeats the request of {where}, which was refused; give it an id of its own"
            elif not replies.wanted(at):
                told.silent.add(at)
            else:
                mine = [rows for source in sources if (rows := only(source, [first], SOURCE_COLUMNS)).num_rows]
                reply = replies.like(at, mine[0]) if mine else None
                if reply is None:
                    told.refused[at] = f"it repeats the request of {where}, whose answer is not in the topic any more"
                elif (why := replies.too_large(reply)) is not None:
                    told.refused[at] = why
                else:
                    told.replies[at] = reply
        return told

    def _found(self, partition: int, requests: Collection[Request]) -> pa.Table | None:
        if self._snapshots is None or not requests:
            return None
        return find_snapshots(self._snapshots, partition, requests)

    def _answer(self, partition: int, requests: pa.Table, replies: Replies, kept: Kept) -> Answered:
        """The answers to ``requests``: as they are kept, or else made now."""
        everyone = self._flatten(requests)
        again = set() if kept.rows is None else requests_of(kept.rows, SOURCE_COLUMNS)
        refused = dict.fromkeys(requests_of(requests) - requests_of(everyone) - again, "no candidates")
        candidates = without(everyone, again, OWN_COLUMNS)
        if replies.wrong:
            asking = requests_of(candidates)
            misled = {request: replies.wrong[request[0]] for request in asking if request[0] in replies.wrong}
            refused |= misled
            candidates = without(candidates, misled, OWN_COLUMNS)
        made = Fitted([], None, {})
        if candidates.num_rows:
            self._ranking.models.refresh()
            candidates, served, failed = self._serve(candidates)
            refused |= failed
            if served is not None:
                undone = {request for request in requests_of(candidates) if request <= (kept.decided or _NOBODY)}
                refused |= dict.fromkeys(undone, _REFUSED_BEFORE)
                answerable = served.answerable & ~among(candidates, undone, OWN_COLUMNS)
                if not answerable.all():  # else nothing is copied
                    old = requests_of(candidates.filter(pa.array(~served.answerable)))
                    refused |= dict.fromkeys(old, TOO_OLD)
                    candidates = candidates.filter(pa.array(answerable))
                if candidates.num_rows:
                    snapshots = self._snapshot(candidates, served, answerable)
                    made = fitted(partition, snapshots, self._answers, replies)
                    refused |= made.large
        scored = [replies.part_of(rows) for rows in (kept.rows, made.snapshots) if rows is not None and rows.num_rows]
        together = scored[0] if len(scored) == 1 else None
        if len(scored) > 1:
            together = pa.concat_tables(scored, promote_options="permissive")
        together = None if together is None else together.combine_chunks()
        return Answered(made.messages, together, refused, everyone.num_rows)

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

    def _snapshot(self, candidates: pa.Table, served: Served, answerable: npt.NDArray[np.bool_]) -> pa.Table:
        ranking = self._ranking
        return snapshot_rows(candidates, served, answerable, ranking.models, ranking.feature_set, ranking.meaning)
