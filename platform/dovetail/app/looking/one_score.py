"""One score taken apart: the inputs of the model that gave it, and how much each moved it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.app.modelling import encoder_of_stored
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.joiners.snapshots.arms import ARM_COLUMNS
from dovetail.joiners.snapshots.shape import request_rows
from dovetail.platform.errors import ModelError, StoreError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.contributions import explain
from dovetail.trainer.models.publish import Model
from dovetail.trainer.models.scorer import predict_with
from dovetail.trainer.samples.encoding import Encoder

__all__ = ["ScoreParts", "Scores"]

_MODELS_IN_MEMORY = 4


class ScoreParts(NamedTuple):
    """A score: ``inputs`` are those of :func:`~dovetail.trainer.models.contributions.explain`, the largest first.

    ``margin`` is their sum, ``prediction`` the model's for it; ``why_not`` says why there are none.
    """

    version: int
    score: float
    inputs: Sequence[Mapping[str, Any]] = ()
    margin: float | None = None
    prediction: float | None = None
    why_not: str = ""

    @property
    def same(self) -> bool:
        """Whether the model gives the score that was served, to the bit."""
        return self.prediction is not None and np.float32(self.prediction) == np.float32(self.score)


class Scores:
    """Takes scores apart. It keeps the last few models that it has loaded; threads may share it."""

    def __init__(self, project: Project, stores: Stores) -> None:
        self._project, self._stores = project, stores
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, tuple[Model, Encoder, Float32]] = OrderedDict()
        self._features: OnlineFeatures | None = None

    def features_of(self, snapshot: pa.Table, sample: pa.Table) -> tuple[pa.Table, str]:
        """All features of a snapshot row, and why some are missing if they are.

        Those of its sample where it has one; else its own, with the batch features as of its request.
        """
        if sample.num_rows:
            return sample.slice(0, 1), ""
        try:
            return self._completing().complete(request_rows(snapshot), snapshot), ""
        except StoreError as error:
            return snapshot, str(error)

    def of(self, snapshot: pa.Table, row: pa.Table) -> ScoreParts:
        """The parts of the score in ``snapshot``, one row, whose features are ``row``."""
        version, score = (snapshot.column(name)[0].as_py() for name in ("model_version", "score"))
        bare = ScoreParts(version, math.nan if score is None else score)
        if elsewhere := self._elsewhere(snapshot):
            return bare._replace(why_not=elsewhere)
        if self._project.config.model is None or version == 0:
            return bare._replace(why_not="no model had been published yet: every candidate got the same score")
        try:
            model, encoder, weights = self._model(version)
        except ModelError as error:
            return bare._replace(why_not=f"version {version} cannot be read: {error}")
        if missing := [name for spec in encoder.inputs for name in spec.reads if name not in row.column_names]:
            return bare._replace(why_not=f"{missing[0]}, which the model reads, is not known of this candidate")
        inputs = explain(encoder, weights, row, model.moments).drop_columns(["row"]).to_pylist()
        prediction = float(predict_with(encoder, weights, model.moments, row)[0])
        margin = math.fsum(each["contribution"] for each in inputs)
        return bare._replace(inputs=inputs, margin=margin, prediction=prediction)

    def _elsewhere(self, snapshot: pa.Table) -> str:
        """Why a score of an experiment's arm is not one of the project's own model; empty where it is."""
        if ARM_COLUMNS[0] not in snapshot.column_names or snapshot.column(ARM_COLUMNS[0])[0].as_py() is None:
            return ""
        name, arm = (snapshot.column(column)[0].as_py() for column in ARM_COLUMNS[:2])
        experiment = self._project.config.experiments.get(name)
        declared = None if experiment is None else experiment.arms.get(arm)
        if declared is None:
            return f"it was scored in the arm {arm} of {name}, and which model that had is not declared any more"
        if declared.model == "serving" or declared.model.startswith("@"):
            return ""
        return f"it was scored in the arm {arm} of {name}, by {declared.model}"

    def _completing(self) -> OnlineFeatures:
        with self._lock:
            if self._features is None:
                project, stores = self._project, self._stores
                versions = BatchVersions(project.batch_views, stores.registry, stores.offline, None)
                self._features = OnlineFeatures(project.feature_set, project.stream_views, stores.online, versions)
            return self._features

    def _model(self, version: int) -> tuple[Model, Encoder, Float32]:
        with self._lock:
            if version not in self._loaded:
                model = self._stores.models.load(version)
                encoder = encoder_of_stored(model, self._project.config.model)
                self._loaded[version] = (model, encoder, model.dense())
                while len(self._loaded) > _MODELS_IN_MEMORY:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(version)
            return self._loaded[version]
