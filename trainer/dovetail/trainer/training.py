"""The trainer as a stage: samples in, checkpoints and published models out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.logs import Event
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.examples import example_rows
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll, Stage, Work
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Metrics
from dovetail.trainer.models.checkpoint import (
    CheckpointStore,
    TrainerProgress,
    describe,
    image,
    resume,
    settings_after,
    settings_of,
)
from dovetail.trainer.models.handed_over import Bounds, Mailbox, unbounded
from dovetail.trainer.models.publish import Model
from dovetail.trainer.publisher import Publisher
from dovetail.trainer.settings import Checkpointing, Publication, Recipe, SampleTopic

__all__ = ["DUPLICATE", "LEFT_OUT", "TRAINED", "Trained", "TrainerListeners", "TrainerStage"]

_log = logging.getLogger(__name__)

#: Outcome of a row the model was trained on.
TRAINED = "trained"
#: Outcome of a row that a model which was laid down or handed over has passed over on purpose.
LEFT_OUT = "left_out"
#: Outcome of a row whose source position was seen before: its producer published it again.
DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Trained:
    """The report to ``on_trained`` after every poll that brought new rows."""

    #: Rows of the topic that count once and are behind the model, ever: those trained on, and those left out.
    trained: int
    #: Rows trained on in this poll.
    rows: int
    total: Metrics
    #: The window that is filling up.
    window: Metrics


@dataclass(frozen=True, slots=True)
class TrainerListeners:
    """Who is told what a trainer has done; None for nobody."""

    #: Called on the event loop with each version, after it is durable.
    on_publish: Callable[[int], None] | None = None
    #: Called on the event loop after each poll that brought new rows.
    on_trained: Callable[[Trained], None] | None = None
    #: Called in the thread of a version's commit, before the version is published or refused, with the rows trained and
    #: the metrics by scope: ``total``, ``recent`` and those of the recipe's groups.
    on_evaluated: Callable[[int, Sequence[tuple[str, Metrics]]], None] | None = None


class TrainerStage(Stage):
    """Trains on the samples of one topic, in the order they arrive, each exactly once.

    A checkpoint holds model, evaluation, positions and accounts in one compare-and-set file. After a crash the stage
    goes on from the last one, trains again on the rows since, and arrives at the same bits: state depends on the order
    of rows alone. With one partition that order is the topic's. With several, polls may interleave differently the
    second time; each row still counts once.

    Version v is the model after exactly ``v * publication.every`` trained rows, wherever polls end; with
    ``publication.delay_us`` after exactly v trained rows, at every multiple of ``publication.every`` and, at the end of
    a poll, once the first row that is in no version has waited for so long by the clock. A version published before a
    crash is not published again: what serving has seen never changes. A delta is one to the version published before
    it. A candidate that the gate refuses is not published, and the reasons are logged; training goes on.

    A checkpoint is due when a multiple of ``checkpoints.every`` trained rows has been reached; it is taken at the end
    of that poll, where positions, filter and model agree without remembering half a poll. One is due, too, when the
    oldest poll that is not in any has waited for ``checkpoints.delay_us``. Until then nothing is acknowledged.

    A full model that is handed over (:class:`~dovetail.trainer.models.handed_over.Mailbox`) becomes the next checkpoint
    as it is, with the positions it includes: the stage goes on from these, and each sample counts in it once. Versions
    go on by the rows of the topic, so those before the newest one that is published are not published again.

    :raises ConfigError: versions or checkpoints are due after less than 1 sample, or full models after less than 1
        version.
    :raises ModelError: the last checkpoint is corrupt or was written under another configuration.
    """

    def __init__(
        self,
        samples: SampleTopic,
        recipe: Recipe,
        checkpoints: Checkpointing,
        publication: Publication,
        *,
        listeners: TrainerListeners | None = None,
        clock: Clock | None = None,
        bounds: Bounds = unbounded,
        name: str = "trainer",
    ) -> None:
        """``bounds``: what the topic has of a partition; asked in a thread. ``name`` is also that of its accounts."""
        self.name = name
        if min(publication.every, checkpoints.every, publication.full_every) < 1:
            raise ConfigError(
                "the trainer needs publish_every >= 1 and checkpoint_every >= 1 samples, "
                f"got {publication.every} and {checkpoints.every}; "
                f"and full_every >= 1 versions, got {publication.full_every}"
            )
        self.topic = samples.topic
        self.topics = (samples.topic,)
        self._samples = samples
        self._recipe = recipe
        self._checkpoints = checkpoints
        self._publication = publication
        self._models = publication.directory
        self._listeners = listeners or TrainerListeners()
        self._clock = clock or SystemClock()
        # How often checkpoints are taken may change from run to run; publish_every may not, it is what a version number
        # means.
        self._settings = settings_of(samples.topic, publication.every, delayed=publication.delay_us is not None)
        self._store = CheckpointStore(checkpoints.folder)
        self._mailbox = Mailbox(checkpoints.folder)
        self._bounds = bounds
        # One poll at a time: partitions share the model.
        self._turn = asyncio.Lock()
        self._committing = threading.Lock()
        self._restore()

    def _restore(self) -> None:
        """Go on from the last checkpoint, whoever wrote it."""
        # Replayed rows pass versions that serving already has.
        self._publisher = Publisher(self._publication)
        # False inside a poll. A poll that fails leaves it so: model and positions disagree, nothing may be stored.
        self._whole = True
        # True while another worker has the topic: what is in memory here is of the past.
        self._gone = False
        self._learner = self._recipe.untrained(self._samples)
        self._sequence = 0
        progress = TrainerProgress({}, {}, ())
        checkpoint = self._store.latest()
        if checkpoint is not None:
            settings = settings_after(checkpoint.configuration["settings"], self._settings)
            self._learner = resume(checkpoint, self._learner, settings)
            self._sequence = checkpoint.sequence
            progress = checkpoint.progress
        self._stored = dict(progress.positions.get(self.topic, {}))
        self._next = dict(self._stored)
        self._filter = SourceFilter(progress.source_filter)
        self._counts = Counter({(a.partition, a.outcome): a.rows for a in progress.accounts})
        self._handed_over = progress.handed_over
        # Several passes are rows of one, and what was left out is behind the model: versions go by rows of the topic.
        behind = sum(rows for (_, outcome), rows in self._counts.items() if outcome in (TRAINED, LEFT_OUT))
        self._uncounted = behind - self._learner.trained
        # Polls completed by the model in memory, and by the last checkpoint.
        self._polls = self._saved = 0
        # When the oldest poll that is not in a checkpoint came; None while there is none.
        self._since_us: int | None = None
        # When the first row came that is in no version and was not refused; None while there is none, or no delay.
        self._unpublished_us: int | None = None
        # By partition, what the runtime knows to be in a checkpoint.
        self._told = dict(self._stored)

    @property
    def learner(self) -> Learner:
        """The model being trained; look, do not touch."""
        return self._learner

    @property
    def _rows(self) -> int:
        """Rows of the topic that count once and are behind the model."""
        return self._learner.trained + self._uncounted

    @property
    def trained_through(self) -> dict[int, int]:
        """The next offset to read, by partition, that the model in memory includes; ahead of :meth:`resume`."""
        return dict(self._next)

    async def start(self) -> None:
        await asyncio.to_thread(self._warm)

    def _warm(self) -> None:
        """Compile what training runs."""
        if self._samples.schema is not None:
            learner = self._recipe.untrained(self._samples, small=True)
            learner.learn(example_rows(self._samples.schema))
            learner.metrics()  # which ends the requests that may go on

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._gone = True

    def resume(self, topic: str) -> Mapping[int, int]:
        """The next offset to read, by partition, as the last checkpoint has it; empty for a topic it does not read.

        A checkpoint that another worker has written since is taken over first.

        :raises ModelError: it is corrupt or was written under another configuration.
        """
        if self._gone or self._store.newest() != self._sequence:
            self._restore()
        return dict(self._stored) if topic == self.topic else {}

    def accounts(self) -> list[Account]:
        """Rows read, trained on and dropped as duplicates, as the model in memory includes them."""
        return [
            Account(self.name, self.topic, partition, outcome, rows)
            for (partition, outcome), rows in sorted(self._counts.items())
        ]

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Train on the rows of ``poll`` that are new; yields one work per version to publish, and one per checkpoint.

        :raises ModelError: an example was refused, or an earlier poll has failed: make a new stage.
        :raises WireError: the decoded table does not fit the model.
        """
        async with self._turn:
            if not self._whole:
                raise ModelError(
                    f"trainer of {self.topic}: an earlier poll failed half-way, so the model in memory matches no "
                    f"position; nothing of partition {poll.partition} from offset {poll.first} on was trained. "
                    "Restart the worker: it resumes from the last checkpoint"
                )
            poll = poll.since(self._next.get(poll.partition, 0))
            if len(poll) == 0:
                return
            self._whole = False
            before = self._learner.trained
            table, read = await compute(self._admit, poll)
            while table.num_rows > 0:
                room = self._publication.every - self._rows % self._publication.every
                await compute(self._learner.learn, table.slice(0, room))
                table = table.slice(room)
                version, rest = divmod(self._rows, self._publication.every)
                if self._publication.delay_us is not None:
                    version = self._rows
                    self._wait_for_version(version)
                if rest == 0 and version > self._publisher.published:
                    async for work in self._offer(version):
                        yield work
            if self._is_overdue():
                async for work in self._offer(self._rows):
                    yield work
            rows = self._learner.trained - before
            self._complete(poll, read, rows)
            if rows and self._listeners.on_trained is not None:
                evaluation = self._learner.evaluation
                self._listeners.on_trained(Trained(self._rows, rows, evaluation.total(), evaluation.recent()[-1]))
            if self._learner.trained // self._checkpoints.every > before // self._checkpoints.every:
                yield await self._checkpoint(done=poll.last + 1)
            self._whole = True

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        if self._mailbox.waits and not stopping:
            async for work in self._take_in():
                yield work
            if self._gone:  # what is in memory is of the past
                return
        if self._is_overdue():
            async for work in self.publish_now():
                yield work
        if self._since_us is not None and (stopping or self._has_passed(self._since_us, self._checkpoints.delay_us)):
            yield await self.checkpoint_now()
        stored = self._stored.get(partition, 0)
        if stored > self._told.get(partition, 0):
            self._told[partition] = stored
            yield Work(done=stored)

    def _has_passed(self, since_us: int, delay_us: int) -> bool:
        # A clock that was set back says nothing about how long it is: then it is long enough.
        return not 0 <= self._clock.now_us() - since_us < delay_us

    def _wait_for_version(self, trained: int) -> None:
        """Note when the first row came that is in no version."""
        if trained > self._publisher.published and self._unpublished_us is None:
            self._unpublished_us = self._clock.now_us()

    def _is_overdue(self) -> bool:
        since_us, delay_us = self._unpublished_us, self._publication.delay_us
        return since_us is not None and delay_us is not None and self._has_passed(since_us, delay_us)

    async def publish_now(self) -> AsyncIterator[Work]:
        """The works that publish the model as it is, where a row has waited for longer than the delay."""
        async with self._turn:
            if self._whole and self._is_overdue():
                async for work in self._offer(self._rows):
                    yield work

    async def _take_in(self) -> AsyncIterator[Work]:
        """A work that puts the model that was handed over in the place of this one; none when it does not fit."""
        async with self._turn:
            if not self._whole or self._gone:
                return
            configured = partial(describe, self._learner, self._settings)
            content = await asyncio.to_thread(
                self._mailbox.take, self.topic, configured, self._handed_over, self._next, self._bounds
            )
            if content is not None:  # neither refused nor taken in before
                yield Work(commit=partial(self._replace, content), afresh=True)

    def _replace(self, content: bytes) -> None:
        with self._committing:
            self._store.save(content, after=self._sequence)
            self._gone = True
        self._mailbox.done()
        name, number, size = self._models.path.name, self._sequence + 1, len(content)
        _log.info(Event("full model taken in", model=name, sequence=number, bytes=size))

    async def checkpoint_now(self) -> Work:
        """A work that stores a checkpoint of all polls handled so far; without a commit when there is nothing new.

        Waits for a poll that is being handled. After a failed poll there is nothing it could store.
        """
        if not self._whole and not self._turn.locked():
            return Work()
        async with self._turn:
            if not self._whole or self._polls == self._saved:
                return Work()
            return await self._checkpoint(done=None)

    async def stop(self) -> None:
        """Store a last checkpoint, so that the next start has nothing to train again.

        Not after a failed poll, and not when another worker has the topic.

        :raises StaleCommit: another trainer has taken the model over.
        """
        if self._whole and not self._gone:
            work = await self.checkpoint_now()
            if work.commit is not None:
                await compute(work.commit)

    def _admit(self, poll: Poll) -> tuple[pa.Table, int]:
        """The rows of ``poll`` that are new, and how many rows it has."""
        table = self._samples.decode(poll)
        return table.filter(pa.array(self._filter.admit(table))), table.num_rows

    def _complete(self, poll: Poll, read: int, trained: int) -> None:
        self._next[poll.partition] = poll.last + 1
        for outcome, rows in ((READ, read), (TRAINED, trained), (DUPLICATE, read - trained)):
            self._counts[poll.partition, outcome] += rows
        self._polls += 1
        if self._since_us is None:
            self._since_us = self._clock.now_us()

    async def _offer(self, version: int) -> AsyncIterator[Work]:
        """Publish the model as it is now, or refuse it."""
        self._unpublished_us = None
        metrics = self._learner.metrics()
        reasons = self._publication.gate.reasons(dict(metrics)["recent"])
        evaluated = partial(self._evaluated, self._rows, metrics)
        model = partial(Model.of, self._learner, self._rows)
        async for work in self._publisher.offer(version, model, reasons, evaluated):
            yield work
        if not reasons and self._listeners.on_publish is not None:
            self._listeners.on_publish(version)

    def _evaluated(self, trained: int, metrics: Sequence[tuple[str, Metrics]]) -> None:
        if self._listeners.on_evaluated is not None:
            self._listeners.on_evaluated(trained, metrics)

    async def _checkpoint(self, *, done: int | None) -> Work:
        """A work that stores the state as it is now, whatever is trained before its commit runs."""
        progress = TrainerProgress(
            {self.topic: dict(self._next)}, self._filter.state, tuple(self.accounts()), self._handed_over
        )
        content = await compute(image, self._learner, progress, self._settings)
        self._since_us = None
        trained = self._rows
        return Work(commit=partial(self._commit, content, trained, self._polls, dict(self._next)), done=done)

    def _commit(self, content: bytes, trained: int, polls: int, positions: dict[int, int]) -> None:
        with self._committing:
            # A checkpoint asked for earlier may reach its commit later; the newer one includes it.
            if polls > self._saved:
                self._sequence = self._store.save(content, after=self._sequence)
                self._saved, self._stored = polls, positions
                name, number = self._models.path.name, self._sequence
                _log.info(Event("checkpoint stored", model=name, sequence=number, trained=trained, bytes=len(content)))
