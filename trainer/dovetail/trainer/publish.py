"""Published models: what the trainer hands to serving, and the scorer that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.container import create, pack, unpack
from dovetail.trainer.encoding import Encoder
from dovetail.trainer.files import NumberedFiles
from dovetail.trainer.kernels import Float32, UInt32, kernel, sigmoid
from dovetail.trainer.learner import Learner

__all__ = ["FORMAT", "Model", "ModelDirectory", "Scored", "Scorer"]

#: Version of the file format; a file of another version is refused.
FORMAT = 1


class Model(NamedTuple):
    """A full model for serving. It holds no optimizer state: training cannot resume from it."""

    #: :attr:`Encoder.fingerprint` the weights were trained under.
    fingerprint: str
    bits: int
    #: Rows trained on.
    trained: int
    #: Slots with a non-zero weight, ascending, uint32 [m].
    slots: UInt32
    #: Their weights, float32 [m].
    weights: Float32

    @classmethod
    def of(cls, learner: Learner) -> Model:
        """``learner`` as it is now; a copy."""
        slots, weights = learner.weights()
        return cls(learner.encoder.fingerprint, learner.encoder.bits, learner.trained, slots, weights)

    def dense(self) -> Float32:
        """All weights, float32 [2**bits]."""
        weights = np.zeros(1 << self.bits, np.float32)
        weights[self.slots] = self.weights
        return weights


class ModelDirectory:
    """Full models by version, in a directory of their own; versions count up from 1, the last ``keep`` are kept.

    A version once published never changes, and a reader sees it whole or not at all.
    """

    def __init__(self, path: Path, *, keep: int = 5) -> None:
        if keep < 1:
            raise ConfigError(f"models in {path}: keep must be at least 1, got {keep}")
        self.path = path
        self._keep = keep
        self._files = NumberedFiles(path, "model")

    def versions(self) -> list[int]:
        """The published versions that are still kept, ascending."""
        return self._files.numbers()

    def latest(self) -> int:
        """The newest version, or 0 when nothing is published."""
        return self._files.latest()

    def publish(self, version: int, model: Model) -> bool:
        """Publish ``model`` as ``version``, durably; False when it was published before, with the same content.

        A version older than all that are kept is taken as published before.

        :raises ModelError: ``version`` is below 1, a weight is not finite, or ``version`` is published with other
            content; nothing changed.
        """
        if version < 1:
            raise ModelError(f"models in {self.path}: version {version} cannot be published; versions start at 1")
        if not np.isfinite(model.weights).all():
            raise ModelError(
                f"model version {version} has {int((~np.isfinite(model.weights)).sum())} weights that are not finite "
                "and was not published; the model has diverged: lower alpha or raise l2, and resume from the last "
                "checkpoint"
            )
        kept = self.versions()
        if len(kept) >= self._keep and version < kept[0]:
            return False
        header = {
            "format": FORMAT, "kind": "model", "version": version, "fingerprint": model.fingerprint,
            "bits": model.bits, "trained": model.trained,
        }  # fmt: skip
        content = pack(header, {"slots": model.slots, "weights": model.weights})
        path = self._files.path(version)
        try:
            create(path, content)
        except FileExistsError:
            if path.exists() and path.read_bytes() == content:
                return False
            raise ModelError(
                f"{path} was published before with other content. A version never changes: two trainers publish "
                "into this directory, or a model was trained anew from the start; give each its own directory"
            ) from None
        self._files.prune(self._keep)
        return True

    def load(self, version: int) -> Model:
        """Read ``version``.

        :raises ModelError: it is not there, is torn or corrupt, or of another format version.
        """
        path = self._files.path(version)
        try:
            header, arrays = unpack(path)
        except FileNotFoundError:
            raise ModelError(f"{path} does not exist; published versions are {self.versions()}") from None
        if (header.get("kind"), header.get("format")) != ("model", FORMAT):
            raise ModelError(
                f"{path}: this is a {header.get('kind')} of format {header.get('format')}, expected a model of format "
                f"{FORMAT}; publish it again with this Dovetail version"
            )
        return Model(header["fingerprint"], header["bits"], header["trained"], arrays["slots"], arrays["weights"])


class Scored(NamedTuple):
    """Predictions and the version that made all of them."""

    version: int
    #: float32 [n].
    predictions: Float32


class Scorer:
    """Scores tables with the newest published model.

    :meth:`refresh` and scoring may run in different threads: a call scores all its rows with one whole model.
    Before the first model, version 0 predicts ``prior`` for every row: use the base rate if it is known.

    :raises ConfigError: ``prior`` is not inside (0, 1).
    """

    def __init__(self, directory: ModelDirectory, encoder: Encoder, *, prior: float = 0.5) -> None:
        if not 0.0 < prior < 1.0:
            raise ConfigError(f"the prior must lie inside (0, 1), got {prior}")
        self._directory = directory
        self._encoder = encoder
        self._prior = np.float32(prior)
        # Version and weights change together, by one reference.
        self._current: tuple[int, Float32 | None] = (0, None)

    @property
    def version(self) -> int:
        """The version in use; 0 before the first."""
        return self._current[0]

    def refresh(self) -> bool:
        """Take up the newest published model; True when that is another one. Lists one directory if nothing is new.

        :raises ModelError: the newest model cannot be read or was trained under another encoder; the one in use stays.
        """
        while (latest := self._directory.latest()) > self.version:
            try:
                model = self._directory.load(latest)
            except ModelError:
                if self._directory.latest() == latest:
                    raise
                continue  # retention took it away between the two calls; a newer one is there
            if model.fingerprint != self._encoder.fingerprint:
                raise ModelError(
                    f"model version {latest} in {self._directory.path} was trained under encoder fingerprint "
                    f"{model.fingerprint}, this scorer encodes as {self._encoder.fingerprint}: their inputs or bits "
                    f"differ. Version {self.version} stays in use; deploy the same model inputs to trainer and scorer"
                )
            self._current = (latest, model.dense())
            return True
        return False

    def predict(self, table: pa.Table) -> Float32:
        """The predictions of :meth:`score`."""
        return self.score(table).predictions

    def score(self, table: pa.Table) -> Scored:
        """Probability of a positive label for each row: exactly what the trainer would predict at this version.

        :raises WireError: a model input column is absent or of a wrong type.
        """
        version, weights = self._current
        if weights is None:
            return Scored(version, np.full(table.num_rows, self._prior, np.float32))
        slots, values = self._encoder.encode(table)
        predictions = np.empty(table.num_rows, np.float32)
        _score(weights, slots, values, predictions)
        return Scored(version, predictions)


@kernel
def _score(weights: Float32, slots: UInt32, values: Float32, predictions: Float32) -> None:
    n, k = slots.shape
    for i in range(n):
        margin = 0.0
        for j in range(k):
            margin += np.float64(weights[slots[i, j]]) * np.float64(values[i, j])
        predictions[i] = np.float32(sigmoid(margin))
