"""``[scenes.NAME]``: a further kind of requests over the same streams and views, with features and a model of its own.

``[request]``, ``[labels]`` and ``[model]`` are the scene without a name, which every project has.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from dovetail.platform.config.model import ModelConfig
from dovetail.platform.config.order import OrderConfig
from dovetail.platform.config.policy import LabelConfig, PolicyConfig
from dovetail.platform.config.request import RequestConfig
from dovetail.platform.config.section import Name, Section

__all__ = ["SceneConfig", "SceneLabels", "SceneRequest", "Scenes", "in_scene"]

#: What comes after the name of a scope or dataset already: ``requests.announced``, ``samples.made``.
_TAKEN = ("announced", "candidates", "held", "made", "stood_in")


def in_scene(what: str, scene: str) -> str:
    """The name of a scope or dataset of a scene: of the scene without a name it is ``what``."""
    return f"{what}.{scene}" if scene else what


class SceneRequest(RequestConfig):
    """The requests of a scene."""

    #: The ``CREATE TABLE`` in ``sql/`` that declares them; several scenes may have one.
    table: Name = "request"
    feature_set: Name
    #: ``NAME-requests`` if left out.
    topic: str = ""
    #: ``NAME-snapshots`` if left out.
    snapshots_topic: str = ""


class SceneLabels(PolicyConfig):
    """How samples of a scene are made of the project's label streams."""

    #: ``NAME-samples`` if left out.
    samples_topic: str = ""
    #: As ``labels.order``.
    order: OrderConfig | None = None
    #: As ``labels.targets``: further samples of the scene's snapshots.
    targets: dict[Name, PolicyConfig] = Field(default_factory=dict)


class SceneConfig(Section):
    """One scene beside the one without a name."""

    request: SceneRequest
    labels: SceneLabels
    #: Its model, whose name no other scene's has.
    model: ModelConfig | None = None

    def request_of(self, name: str) -> RequestConfig:
        """The requests of the scene called ``name``, with the topics that it has by its name."""
        by_name = {"topic": f"{name}-requests", "snapshots_topic": f"{name}-snapshots"}
        return self.request.model_copy(update=_left_out(self.request, by_name))

    def labels_of(self, name: str, shared: LabelConfig) -> LabelConfig:
        """The policy of the scene called ``name`` over the label streams of ``shared``.

        Raises:
            ValueError: the two do not go together.
        """
        own = {key: getattr(self.labels, key) for key in SceneLabels.model_fields}
        return shared.with_policy(own | _left_out(self.labels, {"samples_topic": f"{name}-samples"}))


def _left_out(section: Section, values: dict[str, str]) -> dict[str, str]:
    """Those of ``values`` whose keys ``section`` does not have as it is written."""
    return {key: value for key, value in values.items() if key not in section.model_fields_set}


def _nameable(scenes: dict[str, SceneConfig]) -> dict[str, SceneConfig]:
    known: dict[str, str] = {}
    for name, declared in scenes.items():
        if name in _TAKEN:
            raise ValueError(f"{name}: datasets end in {name} already; give the scene another name")
        if (other := known.setdefault(name.lower(), name)) != name:
            raise ValueError(
                f"{name}: it differs from {other} only in case, and some disks have one folder for both; give the "
                "scene another name"
            )
        for target, policy in declared.labels.targets.items():
            if "samples_topic" not in policy.model_fields_set:
                raise ValueError(
                    f"{name}.labels.targets.{target}: a target of a scene names the topic of its samples; write "
                    f'samples_topic = "{name}-{target}"'
                )
    return scenes


#: Scenes by name.
Scenes = Annotated[dict[Name, SceneConfig], AfterValidator(_nameable)]
