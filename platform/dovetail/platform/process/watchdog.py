"""Tells a worker that has stopped moving from one that has nothing to do or rightly waits.

Known ways in which a Faust worker stands still without an exception: a fetcher or consumer thread that has died, a
message lost between fetch and agent, a rebalance that never ends. Seen from outside they are one: a partition has data,
nothing keeps the stage from it, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from dovetail.platform.clock import Clock
from dovetail.platform.errors import WorkerStuck

__all__ = ["Moving", "Watchdog"]


@dataclass(frozen=True, slots=True)
class Moving:
    """One stage and one partition assigned to it, as seen now.

    ``mark`` is anything that differs when something has moved. ``at`` is the offset it moves from. ``held``: why it
    rightly stands still, in words; None when nothing holds it.
    """

    mark: Hashable
    at: int
    end: int | None
    held: str | None = None

    @property
    def due(self) -> bool:
        """Whether there is something to do that nothing holds back. An end that is not known is no data."""
        return self.held is None and self.end is not None and self.end > self.at


class Watchdog:
    """Looks again and again; raises when a partition, or the assignment of any, has been due for ``timeout_us``.

    It says nothing about a worker that is merely slow: whatever is completed, begun or committed is movement.
    """

    def __init__(self, clock: Clock, timeout_us: int, group: str) -> None:
        self._clock, self._timeout_us, self._group = clock, timeout_us, group
        # Since when each partition is due without moving, with the mark it had.
        self._since: dict[tuple[str, str, int], tuple[Hashable, int]] = {}
        self._unassigned_since: int | None = None

    def look(self, settled: bool, partitions: Mapping[tuple[str, str, int], Moving]) -> None:
        """Look at (stage, topic, partition); ``settled`` is False before the first and during a new assignment.

        Raises:
            WorkerStuck: something has not moved for too long; names all of it.
        """
        now = self._clock.now_us()
        if not settled:
            self._since.clear()
            self._unassigned_since = now if self._unassigned_since is None else self._unassigned_since
            if now - self._unassigned_since >= self._timeout_us:
                raise WorkerStuck(
                    f"group {self._group}: no partitions were assigned for "
                    f"{(now - self._unassigned_since) / 1e6:.0f} s; is the broker's group coordinator there? "
                    "Nothing is lost: start the worker again"
                )
            return
        self._unassigned_since = None
        since = {}
        for key, seen in partitions.items():
            if seen.due:
                mark, start = self._since.get(key, (seen.mark, now))
                since[key] = (seen.mark, start if mark == seen.mark else now)
        self._since = since
        stuck = sorted(key for key, (_, start) in since.items() if now - start >= self._timeout_us)
        if stuck:
            raise WorkerStuck(self._message(stuck, partitions))

    def _message(self, stuck: Sequence[tuple[str, str, int]], partitions: Mapping[tuple[str, str, int], Moving]) -> str:
        where = "; ".join(
            f"stage {stage}, {topic}, partition {number}: at offset {partitions[stage, topic, number].at} of "
            f"{partitions[stage, topic, number].end}"
            for stage, topic, number in stuck
        )
        return (
            f"nothing has moved for {self._timeout_us / 1e6:.0f} s although data waits: {where}. "
            "Nothing is lost: start the worker again; if it was busy all the time, raise [worker] watchdog_timeout"
        )
