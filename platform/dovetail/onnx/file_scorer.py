"""The serving side of a model trained elsewhere: one file, looked at between polls and swapped as a whole."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.onnx.fed_model import OnnxModel
from dovetail.platform.errors import ModelError
from dovetail.platform.logs import Event

__all__ = ["Judge", "OnnxFile", "OnnxScorer"]

_log = logging.getLogger(__name__)

#: Why a candidate must not serve, given its scores for rows; empty when it may.
Judge = Callable[[Callable[[pa.Table], npt.NDArray[np.float32]]], Sequence[str]]


class OnnxFile(NamedTuple):
    """The file of a model, and how it is fed and read; see :class:`~dovetail.onnx.OnnxModel`."""

    path: Path
    inputs: Mapping[str, Sequence[str]] = {}
    output: str = ""
    missing: float = math.nan


class OnnxScorer:
    """Scores tables with the model in a file; one that is renamed into its place is taken up.

    Guarantee: a call scores all its rows with one whole model. A file that cannot be read, does not fit the features,
    or is refused by ``judge`` is said once, in the log and to ``on_damaged`` (0 or 1), and not read again until it
    has changed; the last whole model that served goes on, also after a start, because a copy of it is ``kept``. Before
    the first one, version 0 scores one half for every row.
    """

    def __init__(
        self,
        file: OnnxFile,
        features: pa.Schema,
        *,
        kept: Path,
        judge: Judge | None = None,
        on_damaged: Callable[[int], None] | None = None,
    ) -> None:
        self._file, self._features, self._kept = file, features, kept
        self._judge, self._on_damaged = judge, on_damaged
        self._model: OnnxModel | None = None
        self._seen: object = ()

    @property
    def version(self) -> int:
        """The version in use; 0 before the first."""
        return 0 if self._model is None else self._model.version

    def warm(self, _schema: pa.Schema) -> None:
        """Nothing is compiled; a model is run once when it is taken up."""

    def offered(self) -> object:
        """The file as it is now: as long as this is equal, there is nothing new. None while it is not there."""
        try:
            found = self._file.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def refresh(self) -> bool:
        """Take up the model in the file, if it is another one and may serve; True when it was. Cheap when not.

        Raises:
            ConfigError: onnxruntime is not installed.
        """
        offered = self.offered()
        if offered == self._seen:
            return False
        self._seen = offered
        kept = self._kept.read_bytes() if self._kept.is_file() else None
        try:
            content = self._file.path.read_bytes()
            model = self._read(content)
            if content != kept:
                self._refuse_bad(model)
        except (OSError, ModelError) as error:
            before = self._model
            self._say(error, kept)
            return self._model is not before
        if content != kept:
            self._keep(content)
        self._take(model)
        self._tell(0)
        return True

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        """The version in use and the score of each row.

        Raises:
            ModelError: the model fails on these rows.
        """
        model = self._model
        if model is None:
            return 0, np.full(table.num_rows, 0.5, np.float32)
        return model.version, model.score(table)

    def _read(self, content: bytes) -> OnnxModel:
        path, inputs, output, missing = self._file
        try:
            return OnnxModel(content, self._features, inputs, output, missing)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def _refuse_bad(self, model: OnnxModel) -> None:
        reasons = [] if self._judge is None else self._judge(model.score)
        if reasons:
            raise ModelError(f"{self._file.path}: version {model.version} is refused: {'; '.join(reasons)}")

    def _say(self, error: Exception, kept: bytes | None) -> None:
        """Say that the file cannot serve, and serve what did before."""
        if self._model is None and kept is not None:
            try:
                self._take(self._read(kept))
            except ModelError as also:
                _log.error("the model kept of before does not fit, either: %s", also)
        serving = f"version {self.version} serves" if self._model is not None else "no model serves"
        _log.error("the model is not taken up, %s: %s", serving, error)
        self._tell(1)

    def _take(self, model: OnnxModel) -> None:
        self._model = model
        _log.info(Event("model taken up", model=self._file.path.name, version=model.version, role="onnx"))

    def _keep(self, content: bytes) -> None:
        """Keep a copy of what is about to serve, whole or not at all."""
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        draft = self._kept.with_suffix(".partial")
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._kept)

    def _tell(self, damaged: int) -> None:
        if self._on_damaged is not None:
            self._on_damaged(damaged)
