"""One trial: a world, servers, a fleet under load, a fault, and the verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from dovetail.app.roles import all_roles, group_of
from dovetail.app.worker import assemble
from dovetail.platform.stage import Outgoing
from scripts.servers import Kafka, PostgreSQL, Redis
from tests.faults.broker import Broker
from tests.faults.fleet import Fleet, until
from tests.faults.verdict import Verdict, judge
from tests.faults.world import World

__all__ = ["Load", "Servers", "Stored", "Trial"]


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of all trials, to be hurt."""

    kafka: Kafka
    redis: Redis
    postgresql: PostgreSQL


class Load(threading.Thread):
    """Sends a world's portions, each when the one before is in the broker, until told to hold or at the end.

    ``sent`` counts portions. What goes wrong is raised by :meth:`finish`.
    """

    def __init__(self, world: World, broker: Broker) -> None:
        super().__init__(name="load", daemon=True)
        self._world, self._broker = world, broker
        self._partitions = world.project.config.topics()
        self._may_go = threading.Semaphore(0)
        self.sent = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            for portion in self._world.portions:
                self._may_go.acquire()
                self._send(portion)
                self.sent += 1
        except BaseException as error:  # noqa: BLE001 - raised by finish
            self._error = error

    def _send(self, messages: Sequence[Outgoing]) -> None:
        """Send in order; returns when the broker has them all."""
        self._broker.send(messages, self._partitions)

    def let_go(self, portions: int) -> None:
        """Let so many further portions be sent."""
        self._may_go.release(portions)

    def finish(self) -> None:
        """Send what is left; returns when the broker has all."""
        self.let_go(len(self._world.portions))
        self.join()
        if self._error is not None:
            raise self._error


@dataclass(slots=True)
class Trial:
    """What a fault may touch while it does its harm; ``api`` where ``load`` sends to it."""

    world: World
    broker: Broker
    fleet: Fleet
    servers: Servers
    load: Load
    api: Fleet | None = None

    @property
    def partitions(self) -> int:
        """How many partitions there are to read."""
        with Stored(self) as stored:
            return sum(self.world.project.config.topics()[topic] for topic in stored.topics)

    def run(self, act: Callable[[Trial, Generator], None], seed: int) -> Verdict:
        """Load, harm in the middle of it, the rest of the load, calm; then the verdict."""
        until(self.fleet.ready, "the workers are ready", say=self.fleet.logs)
        self.load.start()
        self.load.let_go(2)
        until(lambda: self.load.sent > 0 or not self.load.is_alive(), "the load has begun")
        act(self, np.random.default_rng([seed, 2]))
        self.load.finish()
        with Stored(self) as stored:
            until(lambda: not stored.behind(buffering=False), "everything is read", say=stored.say)
            until(self.fleet.ready, "the workers are ready again", say=self.fleet.logs)
            codes = self.fleet.stop()
            for _ in range(3):
                # Told to stop before the last poll had come: it is read by the next who starts, as always.
                if not stored.behind():
                    break
                with Fleet(self.world.folder, 1) as again:
                    until(again.ready, "the last worker is ready")
                    until(lambda: not stored.behind(buffering=False), "everything is read again", say=stored.say)
                    codes += again.stop()
            verdict = judge(self.world, self.broker)
            verdict.expect("behind at the end", stored.behind(), {})
        verdict.expect("exit codes of the workers when told to stop", codes, [0] * len(codes))
        return verdict

    def committed_beyond(self, stored: Mapping[tuple[str, str, int], int]) -> bool:
        """Whether the group's offset of some events is beyond what the features had stored: it would lose them."""
        config = self.world.project.config
        committed = self.broker.committed(group_of(config, all_roles(config)))
        return any(
            offset > stored.get((f"features.{name}", topic, partition), 0)
            for name, stream in config.streams.items()
            for (topic, partition), offset in committed.items()
            if topic == stream.topic
        )

    def stored(self) -> dict[tuple[str, str, int], int]:
        """Stored positions, by stage and partition."""
        with Stored(self) as stored:
            return stored.positions()


class Stored:
    """How far the stages are, by their stores."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._worker = assemble(trial.world.project)

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stores.close()

    @property
    def topics(self) -> set[str]:
        """All that any stage reads."""
        return {topic for stage in self._worker.stages.values() for topic in stage.topics}

    def positions(self) -> dict[tuple[str, str, int], int]:
        """The next offset, by stage, topic and partition."""
        return {
            (stage.name, topic, partition): at
            for stage in self._worker.stages.values()
            for topic in stage.topics
            for partition, at in stage.resume(topic).items()
        }

    def behind(self, *, buffering: bool = True) -> dict[str, tuple[int, int]]:
        """Stored position and end, by stage and partition, where they differ.

        The archive and the trainer store in large steps, and when they are told to stop: ``buffering`` counts them.
        Credits of a model on shards are read by nobody but a splitter that runs.
        """
        topics = self._trial.world.project.config.topics()
        ends = self._trial.broker.ends({name: count for name, count in topics.items() if not name.endswith("-credits")})
        found, positions = {}, self.positions()
        for stage in self._worker.stages.values():
            if not buffering and stage.name.startswith(("archive.", "trainer")):
                continue
            for (topic, partition), end in ends.items():
                at = positions.get((stage.name, topic, partition), 0)
                if topic in stage.topics and at != end:
                    found[f"{stage.name} {topic}[{partition}]"] = (at, end)
        return found

    def say(self) -> str:
        """For a message: who is behind, and what the workers have said."""
        return f"{self.behind()}\n{self._trial.fleet.logs()}"
