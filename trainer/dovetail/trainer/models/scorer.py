"""The serving side: scores rows with a published model, swapped as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.logs import Event
from dovetail.platform.rows.examples import example_rows
from dovetail.trainer.arithmetic import Float32, Float64, UInt32
from dovetail.trainer.losses import PRIORS, prediction_of
from dovetail.trainer.models.container import Damaged
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.samples.encoding import Encoder

__all__ = ["Scored", "Scorer", "predict_with"]

_log = logging.getLogger(__name__)


class _Serving(NamedTuple):
    """Version and weights change together, by one reference."""

    version: int
    weights: Float32
    moments: Float64


class Scored(NamedTuple):
    """Predictions and the version that made all of them."""

    version: int
    #: float32 [n].
    predictions: Float32


class Scorer:
    """Scores tables with the newest published model, or with the one pinned in its directory.

    :meth:`refresh` and scoring may run in different threads: a call scores all its rows with one whole model, and the
    old one serves while the new one is being loaded. Before the first model, version 0 predicts ``prior`` for every
    row (a margin of 0 without one): use the base rate if it is known.

    With a ``version`` it scores with that one, whatever serves.

    With ``role`` ``"shadow"`` it scores with the directory's shadow version instead, if there is one.

    A damaged file is said once, in the log and to ``on_damaged`` (the number of damaged files that are known), and is
    not read again until it has changed. The last whole version before it is scored with.

    :raises ConfigError: the ``prior`` of a logistic loss is not inside (0, 1).
    """

    def __init__(
        self,
        directory: ModelDirectory,
        encoder: Encoder,
        *,
        prior: float | None = None,
        role: Literal["serving", "shadow"] = "serving",
        version: int | None = None,
        on_damaged: Callable[[int], None] | None = None,
    ) -> None:
        prior = PRIORS[encoder.loss] if prior is None else prior
        if encoder.loss == "logistic" and not 0.0 < prior < 1.0:
            raise ConfigError(f"the prior must lie inside (0, 1), got {prior}")
        self._directory = directory
        self._encoder = encoder
        self._prior = np.float32(prior)
        self._role = role
        self._fixed = version
        self._current: _Serving | None = None
        self._on_damaged = on_damaged
        #: Damaged versions, and what their files looked like.
        self._damaged: dict[int, object] = {}

    def warm(self, schema: pa.Schema) -> None:
        """Compile what scoring rows of ``schema`` runs, also while there is no model yet.

        :raises WireError: a model input column is absent or of a wrong type.
        """
        encoder = self._encoder.small()
        predict_with(encoder, np.zeros(1 << encoder.bits, np.float32), encoder.new_moments(), example_rows(schema))

    @property
    def version(self) -> int:
        """The version in use; 0 before the first, and for a shadow that is switched off."""
        return self._current.version if self._current is not None else 0

    def refresh(self) -> bool:
        """Take up the version that should serve; True when that is another one. Lists one directory if nothing is new.

        Deltas that lead on from the version in use are applied one after the other; where one is missing, nothing is
        guessed: the newest version that can be built from a full model is taken, or the one in use stays until there
        is one. A pinned version is loaded even if it is older.

        :raises ModelError: the version is of another format or was trained under another encoder, or a pinned one is
            not there; the one in use stays.
        """
        self._forget_mended()
        changed = self._refresh()
        if changed:
            _log.info(Event("model taken up", model=self._directory.path.name, version=self.version, role=self._role))
        return changed

    def _refresh(self) -> bool:
        directory = self._directory
        wanted = self._fixed or (directory.shadow if self._role == "shadow" else directory.pinned)
        if wanted is None and self._role == "shadow":
            changed = self._current is not None
            self._current = None
            return changed
        if wanted is not None:
            return wanted != self.version and self._take_whole([wanted, *self._below(wanted)])
        before, latest = self.version, directory.latest()
        if before > latest:
            # The directory was emptied and filled anew: what is there now counts, once it has been loaded.
            return self._take_whole(reversed(directory.fulls()))
        while latest > self.version:
            try:
                if not self._follow():
                    break
            except ModelError:
                if directory.latest() == latest:
                    raise
                # Retention took a file away between two calls; a newer one is there.
            latest = directory.latest()
        return self.version != before

    def predict(self, table: pa.Table) -> Float32:
        """The predictions of :meth:`score`."""
        return self.score(table).predictions

    def score(self, table: pa.Table) -> Scored:
        """The prediction for each row, a probability or a number: what the trainer would predict at this version.

        :raises WireError: a model input column is absent or of a wrong type.
        """
        current = self._current
        if current is None:
            return Scored(0, np.full(table.num_rows, self._prior, np.float32))
        return Scored(current.version, predict_with(self._encoder, current.weights, current.moments, table))

    def _follow(self) -> bool:
        """One step towards the newest version: the next delta, or a full model; False when there is a gap."""
        directory, version = self._directory, self.version
        fulls = [full for full in directory.fulls() if full > version]
        # A full model is the shorter way when it is newer, and the only one across a gap.
        if self._take_whole(reversed(fulls)):
            return True
        if self._current is None:
            return False
        for number in directory.deltas():
            if number > version and number not in self._damaged:
                try:
                    delta = directory.load_delta(number)
                except Damaged as error:
                    self._note(number, error)
                    continue
                if delta.base == version:
                    self._require(number, delta.fingerprint)
                    self._current = _Serving(number, delta.apply(self._current.weights), delta.moments)
                    return True
        return False

    def _below(self, version: int) -> Iterator[int]:
        """The versions before a damaged one, the newest first; none where one of them, or a later one, is in use."""
        if self._current is None:
            yield from (number for number in reversed(self._directory.versions()) if number < version)

    def _take_whole(self, versions: Iterable[int]) -> bool:
        """Take up the first of ``versions`` that is not damaged; False when there is none, or it is in use."""
        for version in versions:
            if version in self._damaged:
                continue
            try:
                return version != self.version and self._take(version)
            except Damaged as error:
                self._note(version, error)
        return False

    def _note(self, version: int, error: Damaged) -> None:
        """Say that a version is damaged, and leave it alone as long as its file is what it is."""
        self._damaged[version] = self._directory.stamp(version)
        serving = f"version {self.version}" if self._current is not None else "the version before it, if that is whole"
        _log.error("model version %d is damaged, %s serves: %s", version, serving, error)
        self._tell()

    def _forget_mended(self) -> None:
        """Look again at damaged files that have changed, and forget those that are gone."""
        kept = {version: stamp for version, stamp in self._damaged.items() if self._directory.stamp(version) == stamp}
        if kept != self._damaged:
            self._damaged = kept
            self._tell()

    def _tell(self) -> None:
        if self._on_damaged is not None:
            self._on_damaged(len(self._damaged))

    def offered(self) -> object:
        """The state of the directory that :meth:`refresh` goes by: as long as it is equal, there is nothing new."""
        directory = self._directory
        stamps = tuple((version, directory.stamp(version)) for version in self._damaged)
        return tuple(directory.fulls()), tuple(directory.deltas()), directory.pinned, directory.shadow, stamps

    def _take(self, version: int) -> bool:
        model = self._directory.load(version)
        self._require(version, model.fingerprint)
        self._current = _Serving(version, model.dense(), model.moments)
        return True

    def _require(self, version: int, fingerprint: str) -> None:
        if fingerprint != self._encoder.fingerprint:
            raise ModelError(
                f"model version {version} in {self._directory.path} was trained under encoder fingerprint "
                f"{fingerprint}, this scorer encodes as {self._encoder.fingerprint}: their inputs, bits or "
                f"loss differ. Version {self.version} stays in use; deploy the same model inputs to trainer and scorer"
            )


def predict_with(encoder: Encoder, weights: Float32, moments: Float64, table: pa.Table) -> Float32:
    """The prediction for each row of ``table``, of a logistic loss a probability; ``weights`` float32 [2**bits].

    :raises WireError: a model input column is absent or of a wrong type.
    """
    slots, values = encoder.encode(table, moments)
    predictions = np.empty(table.num_rows, np.float32)
    _score(weights, slots, values, predictions, encoder.loss_code)
    return predictions


@compiled_as_ieee
def _score(weights: Float32, slots: UInt32, values: Float32, predictions: Float32, loss: int) -> None:
    n, k = slots.shape
    for i in range(n):
        margin = 0.0
        for j in range(k):
            margin += np.float64(weights[slots[i, j]]) * np.float64(values[i, j])
        predictions[i] = prediction_of(margin, loss)
