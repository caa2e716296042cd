"""Times of the phases of a poll: how long features and scores took, noted by wrappers of who computes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.contracts import FeatureServer, Served, ServingModel

__all__ = ["Phase", "Phases", "TimedFeatures", "TimedModel"]


class Phase(NamedTuple):
    """A phase by name, from one moment to another, in nanoseconds since 1970."""

    name: str
    start_ns: int
    end_ns: int


class Phases:
    """The phases of the poll that a stage has in hand: one in each task. Notes nothing unless it is asked to."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.now_ns = now_ns
        # What is computed in a thread for a task has its context.
        self._noted: ContextVar[list[Phase] | None] = ContextVar("noted", default=None)

    @contextmanager
    def noting(self) -> Iterator[list[Phase]]:
        """The phases of this block, as they end."""
        noted: list[Phase] = []
        self._noted.set(noted)
        try:
            yield noted
        finally:
            self._noted.set(None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block as a phase."""
        noted = self._noted.get()
        if noted is None:
            yield
            return
        began = self.now_ns()
        try:
            yield
        finally:
            noted.append(Phase(name, began, self.now_ns()))


class TimedFeatures(FeatureServer):
    """Features whose serving is the phase ``features``."""

    def __init__(self, features: FeatureServer, phases: Phases) -> None:
        self._features, self._phases = features, phases

    def serve(self, candidates: pa.Table) -> Served:
        """As the features serve."""
        with self._phases.phase("features"):
            return self._features.serve(candidates)


class TimedModel(ServingModel):
    """A model whose scoring is the phase ``score``."""

    def __init__(self, model: ServingModel, phases: Phases) -> None:
        self._model, self._phases = model, phases

    def refresh(self) -> object:
        """As the model does."""
        return self._model.refresh()

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        """As the model scores."""
        with self._phases.phase("score"):
            return self._model.score(table)
