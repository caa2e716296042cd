"""A scorer whose models are loaded beside serving: whoever answers requests never waits for one."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Protocol

import pyarrow as pa

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.scorer import Scored

__all__ = ["Loadable", "LoadedBeside"]

_NICE = 10


class Loadable(Protocol):
    """A scorer whose versions can be loaded in a thread of their own, as :class:`~dovetail.trainer.models.Scorer`."""

    @property
    def version(self) -> int:
        """The version in use; 0 before the first."""

    def warm(self, schema: pa.Schema) -> None:
        """Compile what scoring rows of ``schema`` runs."""

    def offered(self) -> object:
        """The state that :meth:`refresh` goes by: as long as it is equal, there is nothing new."""

    def refresh(self) -> object:
        """Take up the version that should serve."""

    def score(self, table: pa.Table) -> tuple[int, Float32]:
        """The version in use, and its predictions."""


class LoadedBeside:
    """Scores as ``scorer`` does; what is published is loaded in a thread of its own, and taken up when it is whole.

    One reference is swapped then: each call scores all its rows with one version, and goes on with the old one until
    the new one is there. At most one load runs; what is published meanwhile is looked at when it has ended. Which poll
    is the first to be scored by a new version depends on how long it takes to load.
    """

    def __init__(self, scorer: Loadable) -> None:
        self._scorer = scorer
        self._thread: threading.Thread | None = None
        self._seen: object = None
        self._error: Exception | None = None

    @property
    def version(self) -> int:
        """The version in use; 0 before the first."""
        return self._scorer.version

    def warm(self, schema: pa.Schema) -> None:
        """Compile what scoring runs, and load the version that should serve: before the first request, which waits.

        :raises ModelError: as the scorer's own ``refresh``.
        """
        self._scorer.warm(schema)
        self._seen = self._scorer.offered()
        self._scorer.refresh()

    def refresh(self) -> None:
        """See that what is published is being loaded; returns at once, and lists one directory.

        :raises ModelError: the load before failed, as the scorer's own ``refresh``; the version in use stays.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        error, self._error = self._error, None
        if error is not None:
            raise error
        offered = self._scorer.offered()
        if offered != self._seen:
            self._seen = offered
            self._thread = threading.Thread(target=self._load, name="model", daemon=True)
            self._thread.start()

    def score(self, table: pa.Table) -> Scored:
        """The predictions of the version in use."""
        return Scored(*self._scorer.score(table))

    def wait(self) -> None:
        """Wait for the load that runs, if one does."""
        if self._thread is not None:
            self._thread.join()

    def _load(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own: requests go first
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            self._scorer.refresh()
        except Exception as error:  # noqa: BLE001 - it is raised where the load was asked for
            self._error = error
