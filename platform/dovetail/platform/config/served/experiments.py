"""``[experiments.NAME]`` of ``dovetail.toml``: requests split by user among models that serve side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dovetail.platform.config.section import Name, Section

__all__ = ["ArmConfig", "ExperimentConfig", "Experiments", "own_versions", "running"]

_MODEL = re.compile(r"serving|@[1-9][0-9]*|[^@]+(@[1-9][0-9]*)?")


class ArmConfig(Section):
    """One arm: its share of the users, and the model that scores their requests.

    ``model`` is ``serving`` (what serves without an experiment), ``@VERSION`` of the project's model, ``DIR`` or
    ``DIR@VERSION`` of published models elsewhere, or an ONNX file (``….onnx``).
    """

    share: float = Field(gt=0, lt=1)
    model: str = "serving"

    @model_validator(mode="after")
    def _names_a_model(self) -> ArmConfig:
        if not _MODEL.fullmatch(self.model):
            raise ValueError(
                f"model: {self.model!r} names none; write serving, @VERSION, DIR, DIR@VERSION or FILE.onnx"
            )
        return self


class ExperimentConfig(Section):
    """An experiment. Its first arm is the control, which the others are compared with."""

    #: The column of the request, outside its candidates, whose values are split among the arms.
    by: Name
    #: What is hashed before the value; the experiment's name if empty. Another salt makes another split.
    salt: str = ""
    arms: dict[Name, ArmConfig] = Field(min_length=2)
    #: Whether requests are split now; an experiment that has ended keeps its section for its report.
    active: bool = True
    #: The metric that the verdict is about.
    metric: Literal["click_rate", "log_loss", "gauc"] = "click_rate"
    #: The chance of a wrong verdict, however often it is looked at.
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    #: The relative difference that the sequences are tuned to; they hold for any.
    effect: float = Field(default=0.05, gt=0)
    #: Users of each arm before anything is said of it.
    min_users: int = Field(default=100, ge=30)

    @model_validator(mode="after")
    def _shares_are_whole(self) -> ExperimentConfig:
        total = math.fsum(arm.share for arm in self.arms.values())
        if abs(total - 1) > 1e-9:
            shown = " + ".join(f"{arm.share:g}" for arm in self.arms.values())
            raise ValueError(f"arms: their shares are {shown} = {total:g}; make them add up to 1")
        return self


def _one_runs(experiments: dict[str, ExperimentConfig]) -> dict[str, ExperimentConfig]:
    active = [name for name, declared in experiments.items() if declared.active]
    if len(active) > 1:
        raise ValueError(
            f"{' and '.join(active)} are all active, and a request is scored by one model; set active = false in all "
            "but one of them"
        )
    return experiments


#: Experiments by name, of which one at most is active.
Experiments = Annotated[dict[Name, ExperimentConfig], AfterValidator(_one_runs)]


def running(experiments: Mapping[str, ExperimentConfig]) -> tuple[str, ExperimentConfig] | None:
    """The name and declaration of the experiment that requests are split by; None while there is none."""
    return next(((name, declared) for name, declared in experiments.items() if declared.active), None)


def own_versions(experiments: Mapping[str, ExperimentConfig]) -> frozenset[int]:
    """The versions of the project's own model that arms of the running experiment score with."""
    found = running(experiments)
    arms = () if found is None else found[1].arms.values()
    return frozenset(int(arm.model[1:]) for arm in arms if arm.model.startswith("@"))
