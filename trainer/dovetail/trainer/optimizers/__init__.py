"""Per-coordinate online optimizers, one algorithm per file, behind :class:`.base.Optimizer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dovetail.platform.errors import ConfigError
from dovetail.trainer.optimizers.adagrad import AdaGrad
from dovetail.trainer.optimizers.adamom import AdaMom
from dovetail.trainer.optimizers.delay import DelayCompensated
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.optimizers.ogd import Ogd
from dovetail.trainer.optimizers.optimizer import Optimizer

__all__ = ["OPTIMIZERS", "AdaGrad", "AdaMom", "DelayCompensated", "Ftrl", "Ogd", "Optimizer", "optimizer_named"]

#: Every algorithm by the name it has in ``dovetail.toml``.
OPTIMIZERS: Mapping[str, type[Optimizer]] = {kind.name: kind for kind in (AdaGrad, AdaMom, Ftrl, Ogd)}


def optimizer_named(name: str, hyperparameters: Mapping[str, Any]) -> Optimizer:
    """The optimizer ``name`` with these hyperparameters, defaults for the rest.

    :raises ConfigError: there is no such optimizer, it has no such hyperparameter, or a value is out of range.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"there is no optimizer {name!r}; write one of {', '.join(sorted(OPTIMIZERS))}")
    kind = OPTIMIZERS[name]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every one is a dataclass
    unknown = sorted(hyperparameters.keys() - set(known))
    if unknown:
        raise ConfigError(f"{name} has no hyperparameter {unknown[0]!r}; remove it, or write one of {', '.join(known)}")
    return kind(**hyperparameters)
