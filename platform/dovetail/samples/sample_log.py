"""The samples of a target as one log: what is archived, and behind it what only the topic has yet, without a seam."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

import pyarrow as pa

from dovetail.app.broker import broker_app
from dovetail.app.datasets import samples_dataset
from dovetail.app.storage import resolved
from dovetail.features import Project
from dovetail.platform.errors import ConfigError, StateError
from dovetail.platform.process.loop_thread import LoopThread
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import Progress, without_messages
from dovetail.platform.stage import Poll
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import DataFile, Registry
from dovetail.platform.transports.faust_app import App
from dovetail.platform.transports.viewing import TopicView, view_topics

__all__ = ["Chunk", "SampleLog"]


class Chunk(NamedTuple):
    """Rows of one partition, in the order of their topic, and the offset after the last message they are of."""

    rows: pa.Table
    end: int


class SampleLog:
    """Reads by partition and offset of the samples topic, from wherever the rows are. To be closed.

    Rows are as they were published, in the order of the topic; what was published twice is in it twice, but for what is
    archived. ``days``: what is archived of other days may be left out. Belongs to one thread.

    Raises:
        ConfigError: there is no such target.
    """

    def __init__(
        self, project: Project, target: str = "", *, topic: bool = True, days: tuple[str, str] | None = None
    ) -> None:
        config = project.config
        targets = config.labels.every_target()
        if target not in targets:
            known = ", ".join(name or "the primary one, ''" for name in targets)
            raise ConfigError(f"target {target!r} is not declared in [labels.targets]; there are {known}")
        self._days = days
        self._topic = targets[target].samples_topic
        self._dataset = samples_dataset(target, config.scene)
        self._registry = Registry(resolved(config, config.storage.url("registry")), config.name)
        self._offline = OfflineStore(resolved(config, config.storage.url("offline_store")))
        self._partitions = config.topics()[self._topic]
        self._live = _Live(broker_app(config, f"dovetail-{config.name}.samples")) if topic else None
        self._archived: Mapping[int, Progress] = {}
        self._files: dict[int, list[DataFile]] = {}
        self._refused: list[tuple[int, int]] = []
        self.look()

    @property
    def partitions(self) -> range:
        """The partitions of the topic."""
        return range(self._partitions)

    def look(self) -> None:
        """See what has been archived by now."""
        archived = self._registry.progress(f"archive.{self._dataset}")
        files: dict[int, list[DataFile]] = {}
        # Files registered since the progress was read are left out: what is in them is behind it.
        for file in self._registry.files(self._dataset):
            wanted = self._days is None or self._days[0] <= file.day <= self._days[1]
            if wanted and file.last_offset < archived.get(file.partition, Progress()).next_offset:
                files.setdefault(file.partition, []).append(file)
        self._files = {
            number: sorted(found, key=lambda file: (file.first_offset, file.path)) for number, found in files.items()
        }
        self._archived = archived
        self._refused = self._registry.refused_rows(self._dataset)

    def next(self, partition: int, offset: int) -> Chunk | None:
        """Some rows from ``offset`` on; None when there are no more now.

        Raises:
            StateError: what stood at ``offset`` is neither archived nor in its topic any more, or was never in it.
        """
        if offset < self._archived_to(partition):
            return self._from_files(partition, offset)
        if self._live is None:
            return None
        bounds = self._live.bounds(self._topic).get(partition)
        if bounds is None or offset == bounds[1]:
            return None
        if offset > bounds[1]:
            raise StateError(
                f"partition {partition} of the topic {self._topic} ends at {bounds[1]}, before offset {offset} where "
                "reading was to go on: it is not the topic that the state is of; start the reader anew"
            )
        if offset < bounds[0]:
            self.look()
            if offset < self._archived_to(partition):
                return self._from_files(partition, offset)
            raise StateError(
                f"samples of partition {partition} from offset {offset} on are gone: the topic {self._topic} begins at "
                f"{bounds[0]} and the archive ends before; lengthen [broker.retention] samples, or run the archive "
                "agents, and start the reader anew"
            )
        poll = self._live.read(self._topic, partition, offset)
        return None if poll is None else Chunk(wire.decode_arrow(poll), poll.last + 1)

    def close(self) -> None:
        """Let go of stores and broker."""
        self._registry.close()
        if self._live is not None:
            self._live.close()

    def _archived_to(self, partition: int) -> int:
        return self._archived.get(partition, Progress()).next_offset

    def _flush(self, partition: int, offset: int) -> list[DataFile]:
        """The files of the next flush: one for each of its days, their offsets interleaved."""
        found: list[DataFile] = []
        for file in self._files.get(partition, ()):
            if file.last_offset < offset:
                continue
            if found and file.first_offset > max(each.last_offset for each in found):
                break
            found.append(file)
        return found

    def _from_files(self, partition: int, offset: int) -> Chunk:
        files = self._flush(partition, offset)
        if not files:
            return Chunk(pa.table({}), self._archived_to(partition))
        rows = pa.concat_tables([self._offline.read(file.path) for file in files], promote_options="permissive")
        rows = without_messages(rows, self._refused).sort_by([("_offset", "ascending"), ("_row", "ascending")])
        since = rows.column("_offset").to_numpy().searchsorted(offset)
        return Chunk(rows.slice(int(since)).combine_chunks(), max(file.last_offset for file in files) + 1)


class _Live:
    """A look at topics from code without an event loop: it has one, in a thread of its own."""

    def __init__(self, app: App) -> None:
        self._loop = LoopThread("samples")
        self._opened = AsyncExitStack()
        try:
            self._view: TopicView = self._loop.run(self._opened.enter_async_context(view_topics(app)))
        except BaseException:
            self._loop.close()
            raise

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return self._loop.run(self._view.bounds(topic))

    def read(self, topic: str, partition: int, offset: int) -> Poll | None:
        return self._loop.run(self._view.read(topic, partition, offset))

    def close(self) -> None:
        self._loop.run(self._opened.aclose())
        self._loop.close()
