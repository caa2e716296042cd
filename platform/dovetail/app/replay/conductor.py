"""Conducts a replay: slice after slice, each part when the stages are done with the one before it.

A request at T is answered from the events that had arrived before it, by the model that the labels before it had made.
Nothing else than the topics says how far it has come: a replay that is killed at any moment goes on behind the last of
its messages in each partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dovetail.app.broker import broker_app
from dovetail.app.doors.door import Door, doors
from dovetail.app.flow import Flow
from dovetail.app.replay.arriving import Lateness, Source
from dovetail.app.replay.batches import Numbered, number_of
from dovetail.app.replay.prepared import Plan, ReplayInput, begin_plan, finish_plan, load_plan, prepare
from dovetail.app.replay.slices import next_end
from dovetail.app.worker import Worker, assemble
from dovetail.features import Project
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.broker import FOREVER_MS
from dovetail.platform.config.load import Config
from dovetail.platform.errors import ConfigError
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.publishing import publisher
from dovetail.platform.transports.viewing import TopicView, read_all, view_topics

__all__ = ["Replayed", "replay"]

_MOST_ROWS = 50_000
_LOOK_BACK = 500


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay that is over. By input: the plan's, and the account of what came late.

    ``dead`` rows were dead letters in this run; ``before``: another run had finished it already.
    """

    plan: Plan
    lateness: Mapping[str, Lateness]
    slices: int
    dead: int
    before: bool = False


async def replay(
    project: Project,
    inputs: Sequence[ReplayInput],
    *,
    slice_us: int,
    until_idle: bool,
    on_prepared: Callable[[str, int], None] = lambda _name, _rows: None,
    on_slice: Callable[[int, int, int], None] = lambda _done, _of, _time_us: None,
    on_step: Callable[[str, str], None] | None = None,
) -> Replayed:
    """Send ``inputs`` through a worker that runs in this process, from wherever an earlier run has come.

    ``until_idle``: at the end, what waits for later labels is released. ``on_prepared`` is told how many rows of an
    input have been read, ``on_slice`` how many of all rows are sent and the time of arrival (µs) reached, ``on_step``
    each step of each stage's work.

    Raises:
        ConfigError: an input cannot be used, another replay is not finished, or other workers of the project run.
    """
    config = project.config
    folder = config.path(config.storage.state) / "replay"
    plan = load_plan(folder, inputs, slice_us)
    if plan is not None and plan.finished:
        return Replayed(plan, {}, 0, 0, before=True)
    known = doors(project)
    topics = [door.topic for door in known.values()]
    app = broker_app(config, f"dovetail-{config.name}.client")
    fresh = plan is None
    if plan is None:
        plan = prepare(folder, inputs, slice_us, on_rows=on_prepared)
    with ExitStack() as stack:
        sources = {each.door.name: _source(folder, each, config) for each in inputs}
        for source in sources.values():
            stack.callback(source.close)
        _require_retention(config, sources.values())
        sent: dict[tuple[str, int], int] = {}
        if fresh:
            async with publisher(app), view_topics(app) as view:
                bounds = {topic: await view.bounds(topic) for topic in topics}
            ends = {topic: {number: end for number, (_, end) in found.items()} for topic, found in bounds.items()}
            begin_plan(folder, plan, ends)
        else:
            async with view_topics(app) as view:
                sent = {
                    (topic, int(number)): await _sent(view, topic, int(number), since, plan.identity)
                    for topic, partitions in plan.begun.items()
                    for number, since in partitions.items()
                }
        worker = assemble(project, on_step=on_step)
        stack.callback(worker.stores.close)
        try:
            dead = _dead(worker)
            await worker.runtime.start()
            conductor = _Conductor(worker, known, sources, plan, sent)
            slices = await conductor.run(on_slice)
            await Flow(worker).finish(release=until_idle)
            dead = _dead(worker) - dead
        finally:
            await worker.runtime.stop()
    finish_plan(folder, plan)
    return Replayed(plan, {name: source.lateness for name, source in sources.items()}, slices, dead)


def _require_retention(config: Config, sources: Iterable[Source]) -> None:
    """Refuse to send what Kafka would remove before it is read: a message's age goes by its own time.

    Raises:
        ConfigError: ``[broker.retention] inputs`` does not reach back to the oldest row.
    """
    keep_ms = config.broker.retention.inputs
    if not config.storage.url("broker").startswith("kafka://") or keep_ms == FOREVER_MS:
        return
    oldest = min((time for source in sources if (time := source.next_arrival) is not None), default=None)
    if oldest is not None and (keep_ms is None or SystemClock().now_us() // 1_000 - oldest // 1_000 > keep_ms):
        raise ConfigError(
            "broker.retention.inputs: Kafka removes messages by their own time, and those of this log are old: set it "
            'to "forever", or to longer than the oldest row is old, so that nothing is removed before it is read'
        )


def _source(folder: Path, given: ReplayInput, config: Config) -> Source:
    door = given.door
    if door.kind == "stream":
        own = config.streams[door.name].allowed_lateness
        rekeyed = [each.allowed_lateness for each in config.made_of(door.name)]
        allowed = min([own, *(each for each in rekeyed if each is not None)])
    else:
        of_requests = config.of_scene(door.scene).request
        allowed = (of_requests if door.kind == "requests" else config.labels).allowed_lateness
    return Source(folder / f"{door.name}.parquet", door, allowed)


async def _sent(view: TopicView, topic: str, partition: int, since: int, identity: str) -> int:
    """How many messages of the replay a partition holds: one more than the number of the last one.

    Looks from its end back, so far as needed and not before ``since``.
    """
    end = (await view.bounds(topic)).get(partition, (0, 0))[1]
    low, step = end, _LOOK_BACK
    while low > since:
        low, step = max(since, low - step), step * 4
        last = None
        async for poll in read_all(view, topic, {partition: low}):
            if poll.partition == partition:
                numbers = [number for headers in poll.headers if (number := number_of(headers, identity)) is not None]
                last = numbers[-1] if numbers else last
        if last is not None:
            return last + 1
    return 0


def _dead(worker: Worker) -> int:
    """Rows that agents have turned away; the archive counts them once more, and is left out."""
    return sum(
        account.rows
        for account in worker.accounts()
        if account.outcome == "dead_letter" and not account.stage.startswith("archive.")
    )


class _Conductor:
    def __init__(
        self,
        worker: Worker,
        known: Mapping[str, Door],
        sources: Mapping[str, Source],
        plan: Plan,
        sent: dict[tuple[str, int], int],
    ) -> None:
        self._runtime = worker.runtime
        self._flow = Flow(worker)
        self._plan = plan
        self._known = known
        self._numbered = Numbered(plan.identity, sent)
        self._resumed = bool(sent)
        self._streams = [source for source in sources.values() if source.door.kind == "stream"]
        self._requests = [source for source in sources.values() if source.door.kind == "requests"]
        self._labels = [source for source in sources.values() if source.door.kind == "label"]
        self._attributed = bool(worker.project.config.labels.attributed)
        names = list(worker.stages)
        self._stages = (
            [name for name in names if name.startswith(("rekey.", "features."))],
            [name for name in names if name.split(".")[0] == SNAPSHOT_SCOPE],
            [name for name in names if name.startswith("labels.")],
        )

    async def run(self, on_slice: Callable[[int, int, int], None]) -> int:
        """Send everything; returns how many slices that were."""
        self._flow.require_all()
        of, done, slices = sum(each.rows for each in self._plan.inputs), 0, 0
        if self._resumed:
            for stages in self._stages:
                await self._flow.handled(stages)
            await self._flow.settled()
        while (end := self._next_end()) is not None:
            phases, rows = self._phases(end)
            for stages, messages in zip(self._stages, phases, strict=True):
                if messages:
                    await self._runtime.publish(messages)
                    await self._flow.handled(stages)
            if phases[-1]:
                await self._flow.settled()
            slices, done = slices + 1, done + rows
            on_slice(done, of, end)
        return slices

    def _next_end(self) -> int | None:
        slice_us = self._plan.slice_us
        return next_end(self._streams, self._requests, self._labels, slice_us=slice_us, most=_MOST_ROWS)

    def _phases(self, end: int) -> tuple[tuple[list[Outgoing], list[Outgoing], list[Outgoing]], int]:
        """The messages of the slice that ends at ``end`` and are still to be sent, and how many rows it has."""
        every = (*self._streams, *self._requests, *self._labels)
        taken = {source.door.name: source.take(end) for source in every}
        events = [m for s in self._streams for m in self._numbered.rows(s.door, taken[s.door.name])]
        requests = [m for s in self._requests for m in self._numbered.rows(s.door, taken[s.door.name])]
        if self._attributed:
            requests += [m for s in self._requests for m in self._numbered.watermarks(s.door, _reached(s, end), end)]
        labels = [m for s in self._labels for m in self._numbered.rows(s.door, taken[s.door.name])]
        replayed = {source.door.name: source for source in self._labels}
        for door in self._known.values():
            if door.kind == "label":
                reached = _reached(replayed[door.name], end) if door.name in replayed else end
                labels += self._numbered.watermarks(door, reached, end)
        return (events, requests, labels), sum(each.rows.num_rows for each in taken.values())


def _reached(source: Source, end: int) -> int:
    """The time that no row still to come is older than, and not after ``end``."""
    ahead = source.oldest_ahead
    return end if ahead is None else min(end, ahead)
