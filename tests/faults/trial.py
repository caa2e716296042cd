"""One trial: a world, servers, a fleet under load, a fault, and the verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from broker import Broker
from fleet import Fleet, until
from verdict import Verdict, judge
from world import World

from dovetail.platform.app import assemble

__all__ = ["Load", "Stored", "Trial"]


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
                self._broker.send(portion, self._partitions)
                self.sent += 1
        except BaseException as error:  # noqa: BLE001 - raised by finish
            self._error = error

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
    """What a fault may touch while it does its harm."""

    world: World
    broker: Broker
    fleet: Fleet
    load: Load

    def run(self, fault: Callable[[Trial], None]) -> Verdict:
        """Load, harm in the middle of it, the rest of the load, calm; then the verdict."""
        until(self.fleet.ready, "the workers are ready")
        self.load.start()
        self.load.let_go(len(self.world.portions) // 3)
        until(lambda: self.load.sent > 0, "the load has begun")
        fault(self)
        self.load.finish()
        with Stored(self) as stored:
            until(lambda: not stored.behind(buffering=False), "everything is read", say=stored.behind)
        codes = self.fleet.stop()
        for _ in range(3):
            # Told to stop before the last poll had come: it is read by the next who starts, as always.
            with Stored(self) as stored:
                if not stored.behind():
                    break
            with Fleet(self.world.folder, 1) as again, Stored(self) as stored:
                until(again.ready, "the last worker is ready")
                codes += again.stop()
        verdict = judge(self.world, self.broker)
        verdict.expect("exit codes of the workers when told to stop", codes, [0] * len(codes))
        return verdict


class Stored:
    """How far the stages are, by their stores."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._worker = assemble(trial.world.project)

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stores.close()

    def behind(self, *, buffering: bool = True) -> dict[str, tuple[int, int]]:
        """Stored position and end, by stage and partition, where they differ.

        The archive and the trainer store when a file is full or a checkpoint due, and when they are told to stop:
        ``buffering`` counts them.
        """
        trial = self._trial
        ends = trial.broker.ends(trial.world.project.config.topics())
        found = {}
        for stage in self._worker.stages.values():
            if not buffering and stage.name.startswith(("archive.", "trainer")):
                continue
            for topic in stage.topics:
                stored = stage.resume(topic)
                for (of, partition), end in ends.items():
                    if of == topic and stored.get(partition, 0) != end:
                        found[f"{stage.name} {topic}[{partition}]"] = (stored.get(partition, 0), end)
        return found
