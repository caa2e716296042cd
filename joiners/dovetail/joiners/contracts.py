"""Interfaces to features and models, which the join uses without knowing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["TOO_OLD", "BatchFeatures", "FeatureServer", "Served", "ServingModel"]

#: Why a request that is not :attr:`Served.answerable` is refused.
TOO_OLD = "request_time is older than the feature state can answer exactly (allowed_lateness)"


class Served(Protocol):
    """Features of candidate rows at their request times."""

    @property
    def encoded(self) -> pa.Table:
        """Every column of the feature set, one row per candidate, in the order given.

        A column of lists, maps or structs may be a dictionary of them, by ascending int32 indices.
        """
        ...

    @property
    def snapshot_columns(self) -> Sequence[str]:
        """Names of the columns that go into the snapshot; batch features do not."""
        ...

    @property
    def seen(self) -> Mapping[str, Sequence[int]]:
        """The positions the values include: by streaming view, the next offset of each source partition, from 0 on."""
        ...

    @property
    def answerable(self) -> npt.NDArray[np.bool_]:
        """Bool [n]: False where a request is older than the state can answer exactly; such values mean nothing."""
        ...


class FeatureServer(Protocol):
    """Gives the features of candidates as of their request time."""

    def serve(self, candidates: pa.Table) -> Served:
        """``candidates``: flattened request rows. Thread-safe."""
        ...


class BatchFeatures(Protocol):
    """Gives the batch features of a snapshot row again, as of its request time."""

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        """All feature columns in the feature set's order: the snapshot's own plus batch features looked up now.

        What the rows of the snapshot share (``rows/encodings/shared.py``) is shared in the same way.
        """
        ...


class ServingModel(Protocol):
    """Scores candidates with the published model that serves."""

    def refresh(self) -> object:
        """Take over the newest published model, if there is a newer one. Cheap when there is not."""
        ...

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        """The version that scored (0 before the first model) and the probability of a positive label by row.

        ``table`` may have dictionaries for lists, maps and structs, as :attr:`Served.encoded` has.
        """
        ...
