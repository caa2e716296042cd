"""How far a worker of this process has come with what its topics hold, and the release of what waits at their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from dovetail.app.worker import Worker, label_watermark
from dovetail.joiners.label_agent import LabelStage
from dovetail.joiners.progress import request_newest_us, request_watermark
from dovetail.platform.errors import ConfigError, TransportError
from dovetail.platform.rows.intake import announcement
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Stage

__all__ = ["Flow", "Partition"]

#: A topic and the number of one of its partitions.
Partition = tuple[str, int]
# What a stage waits for in another thread is not always signalled to the runtime.
_LOOK_AGAIN_S = 0.2


class Flow:
    """Waits for the stages of a worker that is started in this process. Belongs to its event loop.

    Every wait raises what ended the worker, if something has.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._runtime = worker.runtime
        self._config = worker.project.config
        self._partitions = self._config.topics()

    def require_all(self) -> None:
        """Check that this process has every partition of what its stages read.

        Raises:
            ConfigError: another worker of the project has some.
        """
        there = {(tp.topic, tp.partition) for tp in self._runtime.tenure.partitions}
        if missing := sorted(set(self._read_by(self._worker.stages.values())) - there):
            topic, number = missing[0]
            raise ConfigError(
                f"{len(missing)} partitions are read by other workers of this project (partition {number} of {topic} "
                "is the first): stop them; this command runs all stages itself"
            )

    async def handled(self, stages: Iterable[str]) -> None:
        """Wait until these stages have handled all that their topics hold, and what they publish to each other.

        A label stage that holds labels back for requests that are still to come has done what it can.
        """
        chosen = [self._worker.stages[name] for name in stages]
        read = self._read_by(chosen)
        ends, before = await self.ends(read), None
        while ends != before:  # a stage that re-keys feeds those behind it
            at, before = ends, ends
            await self._until(
                lambda at=at: all(self._at_end(stage, at) or _holds_labels(stage) for stage in chosen),  # type: ignore[misc]
                chosen,
            )
            ends = await self.ends(read)

    async def settled(self) -> None:
        """Wait until every sample that the labels release is out, and trained on."""
        samples = self._worker.samples
        watermark = await compute(self._label_watermark)
        read = self._read_by(samples)
        while True:
            ends = await self.ends(read)

            def released(ends: Mapping[Partition, int] = ends) -> bool:
                held = [until for stage in samples if (until := _held_until(stage)) is not None]
                return self._quiet(samples, ends) and all(watermark is None or until >= watermark for until in held)

            await self._until(released, samples)
            if await self.ends(read) == ends:  # a lane forwards to the next
                break
        await self.handled(name for name in self._worker.stages if name.startswith("order."))
        training = ("trainer", "splitter", "gradients", "shards", "reducer", "versions")
        await self.handled(name for part in training for name in self._worker.stages if name.split(".")[0] == part)

    async def until_idle(self, *, release: bool = True) -> int:
        """Wait until all that the topics hold is handled, by every stage; returns how many watermarks were announced.

        With ``release``, what waits for later labels or requests is let go: watermarks are announced to the label
        partitions (to those of requests, too, where labels are attributed) that let the last window pass. Rows that
        come after that and are older are late. Without, what waits goes on waiting.
        """
        announced = 0
        stages = tuple(self._worker.stages.values())
        read = self._read_by(stages)
        while True:
            ends = await self.ends(read)
            await self._until(lambda ends=ends: self._quiet(stages, ends), stages)  # type: ignore[misc]
            if await self.ends(read) != ends:
                continue
            held = {stage.name: until for stage in stages if (until := _held_until(stage)) is not None}
            if not held:
                if all(self._at_end(stage, ends) for stage in stages):
                    return announced
                continue
            if not release:
                await self.settled()
                if await self.ends(read) == ends:
                    return announced
                continue
            if messages := await compute(self._release, held):
                await self._runtime.publish(messages)
                announced += len(messages)
            else:  # what holds is let go already, and has not looked yet
                await self._until(lambda held=held: self._has_moved(held), stages)  # type: ignore[misc]

    async def finish(self, *, release: bool) -> None:
        """Wait as :meth:`until_idle` does, then stop the worker.

        After that, all stages have settled what they owe: who is to judge what is stored may do so. Raises what kept
        them from it, also in the stop.
        """
        await self.until_idle(release=release)
        await self._runtime.stop()
        if self._runtime.failure is not None:
            raise self._runtime.failure

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last message of each partition, asked from the broker now.

        Raises:
            TransportError: the broker does not say.
        """

        def ask() -> dict[Partition, int]:
            end, found = self._runtime.ends(), {}
            for topic, number in partitions:
                offset = end(topic, number)
                if offset is None:
                    raise TransportError(f"the broker does not say where partition {number} of {topic} ends")
                found[topic, number] = offset
            return found

        return await compute(ask)

    async def _until(self, predicate: Callable[[], bool], stages: Iterable[Stage]) -> None:
        """Wait for something that ``stages`` do; only they have reason to hurry."""
        hasten = [stage.name for stage in stages]
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._runtime.wait_for(predicate, hasten=hasten)
                return

    def _read_by(self, stages: Iterable[Stage]) -> list[Partition]:
        topics = {topic for stage in stages for topic in stage.topics}
        return [(topic, number) for topic in sorted(topics) for number in range(self._partitions[topic])]

    def _at_end(self, stage: Stage, ends: Mapping[Partition, int]) -> bool:
        """Whether the stage has handled what it reads of these partitions up to ``ends``."""
        return all(
            self._runtime.handled.get((stage.name, topic, number), 0) >= end
            for (topic, number), end in ends.items()
            if topic in stage.topics
        )

    def _quiet(self, stages: Iterable[Stage], ends: Mapping[Partition, int]) -> bool:
        """Whether each stage has handled its topics to their ends, or holds back, or reads a topic that another one
        holds back: of that, no more may have been handed out."""
        held = {topic for stage in stages if _held_until(stage) is not None for topic in stage.topics}
        free = {partition: end for partition, end in ends.items() if partition[0] not in held}
        return all(self._at_end(stage, free) for stage in stages)

    def _label_watermark(self) -> int | None:
        return label_watermark(self._config, self._worker.stores.labels)

    def _has_moved(self, held: Mapping[str, int]) -> bool:
        return any(_held_until(self._worker.stages[name]) != until for name, until in held.items())

    def _release(self, held: Mapping[str, int]) -> list[Outgoing]:
        """The announcements that let go on what is ``held``, by stage until a time; first to requests, which labels
        wait for. None when the watermarks are there already."""
        labels = [until for name, until in held.items() if isinstance(self._worker.stages[name], LabelStage)]
        request, registry = self._config.request, self._worker.stores.registry
        if labels:
            reached = request_watermark(self._config, registry)
            if reached is not None and reached >= max(labels):
                return []
            says = max(labels) + request.allowed_lateness
            return [announcement(request.topic, number, says) for number in range(request.partitions)]
        reached = self._label_watermark()
        if reached is not None and reached > max(held.values()):
            return []
        # As far as the last window, so that it is said once.
        newest = [(request_newest_us(scene, registry), scene.labels.longest_us) for scene in self._config.every_scene()]
        last = max([*held.values(), *(at + longest for at, longest in newest if at is not None)])
        says = last + 1 + self._config.labels.allowed_lateness
        return [
            announcement(stream.topic or kind, number, says)
            for kind, stream in self._config.labels.streams.items()
            for number in range(stream.partitions)
        ]


def _held_until(stage: Stage) -> int | None:
    """The event time that must pass before a stage goes on with the poll it holds back; None when it holds none."""
    until: int | None = getattr(stage, "blocked_until_us", None)
    return until


def _holds_labels(stage: Stage) -> bool:
    return isinstance(stage, LabelStage) and stage.blocked_until_us is not None
