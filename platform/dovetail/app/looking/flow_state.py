"""The flow as its stores and topics have it: how far each stage has read, what it has made of it, what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dovetail.app.storage import Stores
from dovetail.app.trainer_stage import sharding_of
from dovetail.features import Project
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.plan.sources import place_of
from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.progress import label_clocks, label_watermark, request_clocks, request_watermark, sample_lanes
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE
from dovetail.joiners.watermark import Partitions
from dovetail.platform.config.load import Config, ModelConfig
from dovetail.platform.errors import ModelError
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.transports.viewing import TopicView
from dovetail.trainer.models.state_files import newest_head
from dovetail.trainer.sharded.stages.shard_topics import shard_folder, worker_folder

__all__ = ["FlowState", "Reading", "StageState", "flow_state"]

DEAD = "dead_letter"


class Reading(NamedTuple):
    """A topic that a stage reads: messages in it that the stage's state does not include yet; None: not known.

    Of its rows so many were ``read``, and so many of those are ``dead`` letters.
    """

    topic: str
    lag: int | None
    read: int = 0
    dead: int = 0


class StageState(NamedTuple):
    """A stage. ``kind`` is its role, ``newest_us`` the newest event time that its state includes.

    ``outcomes`` are its rows by outcome, without those ``read``; ``waits`` says for what, where it is known to wait.
    Rows are not ``counted`` where a stage keeps no accounts: it hands on what has been counted before.
    """

    name: str
    kind: str
    reads: tuple[Reading, ...]
    read: int
    outcomes: Mapping[str, int]
    newest_us: int | None
    waits: str
    counted: bool = True

    @property
    def dead(self) -> int:
        """Rows that became dead letters."""
        return self.outcomes.get(DEAD, 0)

    @property
    def lag(self) -> int | None:
        """Messages of all its topics that it has not read yet; None where that of one is not known."""
        known = [reading.lag for reading in self.reads if reading.lag is not None]
        return sum(known) if len(known) == len(self.reads) and known else None


class FlowState(NamedTuple):
    """All stages in the order of the flow, messages by topic, and the two watermarks (µs)."""

    stages: list[StageState]
    topics: Mapping[str, int]
    label_watermark_us: int | None
    request_watermark_us: int | None
    dead_letters: int


async def flow_state(
    project: Project, stores: Stores, view: TopicView, archives: Sequence[tuple[str, str]]
) -> FlowState:
    """How far the flow is. Of topics the ends are read, of stores positions and accounts, however much they hold.

    ``archives``: the datasets by name, each with its topic.

    Raises:
        StoreError: a store cannot be reached.
        TransportError: the broker cannot be.
    """
    config = project.config
    topics = list(config.topics())
    bounds = await asyncio.gather(*(view.bounds(topic) for topic in topics))
    ends = {
        topic: {number: end for number, (_, end) in found.items()} for topic, found in zip(topics, bounds, strict=True)
    }
    return await asyncio.to_thread(_state, project, stores, ends, archives)


def _state(
    project: Project,
    stores: Stores,
    ends: Mapping[str, Mapping[int, int]],
    archives: Sequence[tuple[str, str]],
) -> FlowState:
    config = project.config
    books = _Books(stores.accounts(), ends)
    stages = [
        *(
            books.stage(stage_name(name), "rekey", _topic(project, declared.stream), stores.registry.progress)
            for name, declared in config.rekeyed.items()
        ),
        *_views(project, stores, books),
        books.stage(SNAPSHOT_SCOPE, "snapshots", config.request.topic, stores.registry.progress),
    ]
    for kind, stream in config.labels.streams.items():
        stage = books.stage(label_scope(kind), "labels", stream.topic or kind, stores.labels.progress)
        if kind in config.labels.attributed and stage.lag:
            stage = stage._replace(waits=f"requests: {_behind(request_clocks(config, stores.registry, _unknown))}")
        stages.append(stage)
    for lane, _ in sample_lanes(config):
        stage = books.stage(lane.name, "samples", lane.topic, stores.labels.progress)
        if stage.lag:
            stage = stage._replace(waits=f"labels: {_behind(label_clocks(config, stores.labels, _unknown))}")
        stages.append(stage)
    if config.labels.order is not None:
        topic = config.labels.samples_topic
        stages.append(books.stage(f"order.{topic}", "order", topic, stores.registry.progress))
    if config.model is not None and config.trainer.sharded:
        stages += _on_shards(config, config.model, stores, books)
    elif config.model is not None:
        reading = Reading(config.labels.training_topic, None)
        stages.append(StageState("trainer", "trainer", (reading,), 0, {}, None, "", counted=False))
    stages += [books.stage(f"archive.{name}", "archive", topic, stores.registry.progress) for name, topic in archives]
    return FlowState(
        stages,
        {topic: sum(numbers.values()) for topic, numbers in ends.items()},
        label_watermark(config, stores.labels),
        request_watermark(config, stores.registry),
        sum(ends.get(config.dead_letter_topic, {}).values()),
    )


#: How far the reader of a name has come, by partition.
_ProgressOf = Callable[[str], Mapping[int, Progress]]


class _Books:
    """The accounts by stage, and the ends of topics."""

    def __init__(self, accounts: list[Account], ends: Mapping[str, Mapping[int, int]]) -> None:
        self.ends = ends
        self._outcomes: dict[str, dict[str, int]] = {}
        self._of_topics: dict[tuple[str, str, str], int] = {}
        for account in accounts:
            mine = self._outcomes.setdefault(account.stage, {})
            mine[account.outcome] = mine.get(account.outcome, 0) + account.rows
            key = (account.stage, account.topic, account.outcome)
            self._of_topics[key] = self._of_topics.get(key, 0) + account.rows

    def stage(self, name: str, kind: str, topic: str, progress_of: _ProgressOf) -> StageState:
        """A stage that reads one topic, and keeps its progress and its accounts under its own name."""
        progress = progress_of(name)
        at = {number: each.next_offset for number, each in progress.items()}
        return self.made(name, kind, (self.reading(name, topic, at),), progress)

    def kept(self, name: str, topic: str, folders: Sequence[Path]) -> StageState:
        """A stage that keeps its positions in files, of partition n in the n-th folder; lag is up to the last file.

        Where none of the folders is here, another machine has them.
        """
        unread = ""
        try:
            heads = [newest_head(folder) for folder in folders]
        except ModelError as error:
            heads, unread = [], str(error)
        at = {number: int(head["position"]) for number, head in enumerate(heads) if head is not None}
        known = not unread and any(folder.is_dir() for folder in folders)
        reading = self.reading(name, topic, at) if known else Reading(topic, None)
        return StageState(name, name, (reading,), 0, {}, None, unread, counted=False)

    def reading(self, name: str, topic: str, at: Mapping[int, int]) -> Reading:
        """The topic, read by stage ``name`` up to offsets ``at`` by partition."""
        lag = sum(max(0, end - at.get(number, 0)) for number, end in self.ends.get(topic, {}).items())
        read, dead = (self._of_topics.get((name, topic, outcome), 0) for outcome in (READ, DEAD))
        return Reading(topic, lag, read, dead)

    def made(self, name: str, kind: str, reads: tuple[Reading, ...], progress: Mapping[int, Progress]) -> StageState:
        """A stage with what its accounts say."""
        outcomes = dict(self._outcomes.get(name, {}))
        read = outcomes.pop(READ, 0)
        newest = max((each.watermark_us for each in progress.values() if each.watermark_us is not None), default=None)
        return StageState(name, kind, reads, read, outcomes, newest, "")


def _views(project: Project, stores: Stores, books: _Books) -> list[StageState]:
    found = []
    for view in project.stream_views.values():
        progress = stores.online.progress(view.name)
        at: dict[int, dict[int, int]] = {}
        for source, each in progress.items():
            place = place_of(view, source)
            at.setdefault(place.branch, {})[place.partition] = each.next_offset
        reads = {
            branch.stream.topic: books.reading(f"features.{view.name}", branch.stream.topic, at.get(number, {}))
            for number, branch in enumerate(view.reads)
        }
        found.append(books.made(f"features.{view.name}", "features", tuple(reads.values()), progress))
    return found


def _on_shards(config: Config, model: ModelConfig, stores: Stores, books: _Books) -> list[StageState]:
    """The stages of a model on shards, from the gatherer of samples to the assembly of versions."""
    sharding, kept = sharding_of(config, model), stores.checkpoints
    topics = sharding.topics
    gatherer = books.stage(sharding.books, "trainer", config.labels.training_topic, stores.registry.progress)
    shards = [shard_folder(kept, number, sharding.shards) for number in range(sharding.shards)]
    workers = [worker_folder(kept, number, sharding.workers) for number in range(sharding.workers)]
    return [
        gatherer._replace(name="trainer"),
        books.kept("splitter", topics.batches, [kept / "splitter"]),
        *([books.kept("gradients", topics.dealt, workers)] if workers else []),
        books.kept("shards", topics.parts, shards),
        books.kept("reducer", topics.margins, [kept / "reducer"]),
        books.kept("versions", topics.versions, [kept / "versions"]),
    ]


def _topic(project: Project, stream: str) -> str:
    return project.streams[stream].topic


def _behind(partitions: Partitions) -> str:
    """The partition whose clock holds the watermark back."""
    clocks = {key: partition.clock_us(0) for key, partition in partitions.items()}
    silent = [f"{topic}[{number}]" for (topic, number), clock in sorted(clocks.items()) if clock is None]
    if silent:
        return f"{silent[0]} has delivered nothing yet"
    (topic, number), _ = min(clocks.items(), key=lambda item: item[1] or 0)
    return f"{topic}[{number}] has come least far"


def _unknown(_topic: str, _number: int) -> None:
    return None
