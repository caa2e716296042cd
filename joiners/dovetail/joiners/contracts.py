"""What the join needs of features and models, without knowing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["BatchFeatures", "FeatureServer", "Scorer", "Served"]


@dataclass(frozen=True, slots=True)
class Served:
    """Features of candidate rows at their request times.

    ``features``: every column of the feature set, one row per candidate, in the order given. ``snapshot_columns``: the
    names of those that go into the snapshot (batch features do not). ``seen``: by streaming view, the next offset of
    each source partition, dense from partition 0: what the values include. ``answerable`` bool [n]: False where the
    request is older than the state can answer exactly; such rows' values mean nothing.
    """

    features: pa.Table
    snapshot_columns: Sequence[str]
    seen: Mapping[str, Sequence[int]]
    answerable: npt.NDArray[np.bool_]


class FeatureServer(Protocol):
    """Gives the features of candidates as of their request time."""

    def serve(self, candidates: pa.Table) -> Served:
        """``candidates``: flattened request rows. Thread-safe."""
        ...


class BatchFeatures(Protocol):
    """Gives the batch features of a snapshot row again, as of its request time."""

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        """All feature columns in the feature set's order: the snapshot's own plus batch features looked up now."""
        ...


class Scorer(Protocol):
    """The serving model."""

    def refresh(self) -> object:
        """Take over the newest published model, if there is a newer one. Cheap when there is not."""
        ...

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        """The version that scored (0 before the first model) and the probability of a positive label by row."""
        ...
