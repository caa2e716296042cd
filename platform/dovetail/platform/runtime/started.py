"""The stages that have been started: started in order, stopped in reverse, each whatever the others do."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.platform.runtime.computing import Computing, install
from dovetail.platform.stage import Stage

__all__ = ["StartedStages"]


class StartedStages:
    """Starts and stops stages. Belongs to the event loop, in which it lets them compute by ``computing``."""

    def __init__(self, stages: Sequence[Stage], computing: Computing) -> None:
        self._stages = tuple(stages)
        self._computing = computing
        self._started: list[Stage] = []

    @property
    def all(self) -> bool:
        """Whether every stage has been started and none stopped."""
        return len(self._started) == len(self._stages)

    async def start(self) -> None:
        """Start them, in their order. Raises what the first one raises that cannot."""
        install(self._computing)
        for stage in self._stages:
            self._started.append(stage)
            await stage.start()

    def hurry(self) -> None:
        """Tell those that have been started that the worker is about to stop."""
        for stage in self._started:
            stage.hurry()

    async def stop(self) -> None:
        """Stop them, in reverse order, each also when another one raises. Raises the first of what they raise."""
        errors: list[Exception] = []
        while self._started:
            try:
                await self._started.pop().stop()
            except Exception as error:  # noqa: BLE001 - raised below, after the others have stopped
                errors.append(error)
        self._computing.close()
        if errors:
            raise errors[0]
