"""The faults: what is done to workers and servers in the middle of the load, and how workers may end by it.

Each is seeded: the same seed does the same harm, as far as scheduling lets it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.random import Generator

from dovetail.platform.process.lifecycle import FAILED
from tests.faults.fleet import Fleet, until
from tests.faults.trial import Trial

__all__ = ["FAULTS", "ON_SHARDS", "Fault", "redis_loses_its_last_writes"]

KILLED = -signal.SIGKILL.value
#: Steps of a work after which a worker dies: in mid-batch, published and not stored, stored and not acknowledged.
STEPS = {"in_mid_batch": "computed", "after_publishing": "published", "before_acknowledging": "committed"}


def _nothing(_trial: Trial, _: Generator) -> None:
    """The fault is in the world, or in the workers."""


def _no_faults(_: Generator) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Fault:
    """``act`` does the harm; ``workers`` gives faults built into the first worker; ``world`` is for ``make_world``.

    ``ends`` are the exit codes that workers may end with by themselves or by being killed: any other fails the trial.
    ``forever``: the built-in faults are in every worker until ``act`` heals the fleet.
    """

    act: Callable[[Trial, Generator], None] = _nothing
    workers: Callable[[Generator], Sequence[str]] = _no_faults
    world: Mapping[str, Any] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()
    forever: bool = False


def _pause(rng: Generator, longest_s: float) -> None:
    """Not a wait for something to be true: a random moment."""
    threading.Event().wait(float(rng.uniform(0, longest_s)))


# --- workers ----------------------------------------------------------------------------------------------------


def _killed_at_random(trial: Trial, rng: Generator) -> None:
    """Twice, whoever it hits; the second may still be starting."""
    for _ in range(2):
        trial.load.let_go(2)
        _pause(rng, 1.5)
        trial.fleet.kill(int(rng.integers(len(trial.fleet.workers))))
        until(lambda: KILLED in trial.fleet.ended, "the worker is dead")


def _killed_at(step: str) -> Callable[[Generator], Sequence[str]]:
    return lambda rng: [f"die:*:{step}:{int(rng.integers(1, 12))}"]


def _until_it_has_died(trial: Trial, _: Generator) -> None:
    trial.load.let_go(len(trial.world.portions))
    until(lambda: KILLED in trial.fleet.ended, "the worker has killed itself", say=trial.fleet.logs)


def _twice_until_healed(trial: Trial, _: Generator) -> None:
    """Whoever has the stage that is to die, and whoever has it then."""
    trial.load.let_go(len(trial.world.portions))
    until(lambda: trial.fleet.ended.count(KILLED) >= 2, "two workers have killed themselves", say=trial.fleet.logs)
    trial.fleet.heal()


def _on_shards(stage: str, shards: int = 2, staleness: str = "0", *, works: int = 4, workers: int = 0) -> Fault:
    """A stage of a model on shards that dies in every worker, at a step and after up to ``works`` of its own."""

    def faults(rng: Generator) -> Sequence[str]:
        return [f"die:{stage}:{rng.choice(sorted(STEPS.values()))}:{int(rng.integers(1, works + 1))}"]

    world = {"shards": shards, "staleness": staleness, "workers": workers}
    return Fault(_twice_until_healed, workers=faults, world=world, ends=_DIES, forever=True)


def _killed_at_start(trial: Trial, rng: Generator) -> None:
    """Its built-in fault has killed it when it was put together; now any moment between start and first poll."""
    for _ in range(2):
        dead = len(trial.fleet.ended)
        trial.fleet.kill(0)
        until(lambda dead=dead: len(trial.fleet.ended) > dead, "the worker is dead")  # type: ignore[misc]
        trial.load.let_go(1)
        _pause(rng, 3.0)


def _paused(trial: Trial, rng: Generator) -> None:
    """SIGSTOP for longer than the session: the others have taken its partitions over when it wakes up."""
    place = int(rng.integers(2))
    zombie = trial.fleet.workers[place]

    def others() -> int:
        return trial.fleet.workers[1 - place].partitions()

    trial.load.let_go(2)
    _pause(rng, 0.7)
    zombie.send(signal.SIGSTOP)
    trial.load.let_go(2)
    until(
        lambda: others() == trial.partitions, "the other has all partitions", say=lambda: (others(), trial.fleet.logs())
    )
    trial.load.let_go(2)
    _pause(rng, 1.0)
    zombie.send(signal.SIGCONT)
    until(lambda: not zombie.alive or zombie.ready(), "the zombie has noticed")
    if not zombie.alive:
        assert "StaleCommit" in zombie.output or "no longer" in zombie.output, zombie.output


def _added_and_removed(trial: Trial, rng: Generator) -> None:
    trial.load.let_go(2)
    _pause(rng, 0.5)
    trial.fleet.add()
    until(trial.fleet.ready, "the third worker is ready")
    trial.load.let_go(2)
    _pause(rng, 1.0)
    removed = trial.fleet.remove(int(rng.integers(3)))
    assert removed.process.returncode == 0, removed.output


def _disk_was_full(trial: Trial, _: Generator) -> None:
    trial.load.let_go(len(trial.world.portions))
    until(lambda: FAILED in trial.fleet.ended, "a worker has met a full disk", say=trial.fleet.logs)
    assert "No space left on device" in trial.fleet.logs()
    trial.fleet.heal()


# --- servers ----------------------------------------------------------------------------------------------------


def _broker_killed(trial: Trial, rng: Generator) -> None:
    trial.load.let_go(2)
    _pause(rng, 1.0)
    trial.servers.kafka.kill()
    trial.load.let_go(2)
    _pause(rng, 2.0)
    trial.servers.kafka.start()


def redis_loses_its_last_writes(trial: Trial, rng: Generator) -> None:
    """Saved, then written to, then killed: it comes back as it was when it was saved."""
    trial.load.let_go(2)
    _pause(rng, 1.0)
    trial.servers.redis.save()
    before = trial.stored()
    trial.load.let_go(4)
    until(
        lambda: trial.committed_beyond(before), "the broker's offsets are beyond what was saved", say=trial.fleet.logs
    )
    trial.servers.redis.kill()
    trial.servers.redis.start()


def _redis_flushed(trial: Trial, rng: Generator) -> None:
    trial.load.let_go(4)
    _pause(rng, 1.5)
    trial.servers.redis.flush()


def _redis_slow(trial: Trial, rng: Generator) -> None:
    """Once for less than the time-out, once for more."""
    for milliseconds in (int(rng.integers(500, 2_000)), int(rng.integers(3_500, 6_000))):
        trial.load.let_go(2)
        _pause(rng, 0.5)
        trial.servers.redis.hold(milliseconds)
    trial.servers.redis.ask("PING")  # answered when the hold is over


def _postgresql_killed(trial: Trial, rng: Generator) -> None:
    trial.load.let_go(3)
    _pause(rng, 1.5)
    trial.servers.postgresql.kill()
    trial.load.let_go(1)
    _pause(rng, 1.0)
    trial.servers.postgresql.start()


# --- all of it --------------------------------------------------------------------------------------------------


def _api_and_workers_killed(trial: Trial, rng: Generator) -> None:
    """Three times an API process, a worker or both, while clients wait for answers; then everything at once."""
    api = trial.api
    assert api is not None

    def answering() -> list[int]:
        return [place for place, process in enumerate(api.workers) if process.ready()]

    for _ in range(3):
        until(lambda: bool(answering()), "a process of the API is ready", say=api.logs)
        trial.load.let_go(2)
        _pause(rng, 1.5)
        hit = int(rng.integers(1, 4))
        if hit & 1:
            _kill(api, int(rng.choice(answering() or [0])))
        if hit & 2:
            _kill(trial.fleet, int(rng.integers(len(trial.fleet.workers))))
    trial.load.let_go(2)
    _pause(rng, 1.5)
    servers = (trial.servers.kafka, trial.servers.redis, trial.servers.postgresql)
    for server in servers:
        server.kill()
    for fleet in (api, trial.fleet):
        for place in range(len(fleet.workers)):
            fleet.kill(place)
    for server in servers:
        server.start()


def _kill(fleet: Fleet, place: int) -> None:
    dead = len(fleet.ended)
    fleet.kill(place)
    until(lambda: len(fleet.ended) > dead, "it is dead")


_DIES = frozenset({KILLED})
_FAILS = frozenset({FAILED})

#: By name: the classes of faults.
FAULTS: Mapping[str, Fault] = {
    "calm": Fault(),
    "killed_at_random": Fault(_killed_at_random, ends=_DIES),
    **{
        f"killed_{name}": Fault(_until_it_has_died, workers=_killed_at(step), ends=_DIES)
        for name, step in STEPS.items()
    },
    "killed_at_start": Fault(_killed_at_start, workers=lambda _: ["die:start"], ends=_DIES),
    "paused_beyond_its_session": Fault(_paused, ends=_FAILS),
    "added_and_removed": Fault(_added_and_removed),
    "broker_killed": Fault(_broker_killed, ends=_FAILS),
    "redis_loses_its_last_writes": Fault(redis_loses_its_last_writes, ends=_FAILS),
    "redis_flushed": Fault(_redis_flushed, ends=_FAILS),
    "redis_slow": Fault(_redis_slow, ends=_FAILS),
    "postgresql_killed": Fault(_postgresql_killed, ends=_FAILS),
    "no_space_for_parquet": Fault(
        _disk_was_full,
        workers=lambda rng: [f"full:parquet:{int(rng.integers(1, 12))}"],
        ends=_FAILS | {KILLED},
        forever=True,
    ),
    "no_space_for_checkpoints": Fault(
        _disk_was_full,
        workers=lambda _: ["full:checkpoint:1"],
        ends=_FAILS | {KILLED},
        forever=True,
    ),
    "api_and_workers_killed": Fault(
        _api_and_workers_killed, world={"over_http": True, "requests": 120}, ends=_DIES | _FAILS
    ),
    "poison_and_skewed_clocks": Fault(world={"poison": 12, "skew_us": 20 * 60_000_000}),
}

#: More of them, on a model on shards: tried where several seeds of each are, as in `make faults`.
ON_SHARDS: Mapping[str, Fault] = {
    "shard_killed": _on_shards("shards"),
    "trainer_of_shards_killed": _on_shards("trainer", works=1),  # it takes many samples at once
    **{f"{stage}_of_shards_killed": _on_shards(stage) for stage in ("splitter", "reducer", "versions")},
    "shard_of_4_killed": _on_shards("shards", 4),
    "shard_killed_stale": _on_shards("shards", 3, "4"),
    "splitter_killed_async": _on_shards("splitter", 3, '"async"'),
    **{
        f"{name}_on_shards": replace(FAULTS[name], world={"shards": 2})
        for name in ("killed_at_random", "paused_beyond_its_session", "added_and_removed", "broker_killed")
    },
    **{
        f"{stage}_killed_by_samples": _on_shards(stage, workers=3)
        for stage in ("gradients", "shards", "splitter", "reducer", "versions")
    },
    "gradients_killed_stale": _on_shards("gradients", 3, "4", workers=4),
    "gradients_killed_async": _on_shards("gradients", 3, '"async"', workers=2),
    **{
        f"{name}_by_samples": replace(FAULTS[name], world={"shards": 2, "workers": 3})
        for name in ("killed_at_random", "paused_beyond_its_session", "added_and_removed", "broker_killed")
    },
}
