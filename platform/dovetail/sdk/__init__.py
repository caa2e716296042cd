"""The front door: the names a program needs, under one roof.

::

    from dovetail.sdk import load

    project = load(".")

Errors are here at once; every other name is imported from its home when it is first asked for, so importing this module
takes milliseconds and loads neither DuckDB nor numba. ``docs/decisions/0014-front-door.md`` says why it is not
``dovetail`` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dovetail.platform.errors import (
    ConfigError,
    DamagedState,
    DefinitionError,
    DovetailError,
    EngineFailed,
    LogLocked,
    ModelError,
    StaleCommit,
    StateError,
    StoreError,
    TransportError,
    WireError,
    WorkerStuck,
)

__all__ = [
    "Config",
    "ConfigError",
    "DamagedState",
    "DefinitionError",
    "Description",
    "DovetailError",
    "EmbeddedFlow",
    "Encoder",
    "EngineFailed",
    "Ftrl",
    "InputSpec",
    "Learner",
    "LogLocked",
    "Model",
    "ModelDirectory",
    "ModelError",
    "Project",
    "ProjectClient",
    "Reader",
    "Scorer",
    "StaleCommit",
    "StateError",
    "StoreError",
    "TransportError",
    "WireError",
    "WorkerStuck",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from dovetail.embedded.program_flow import EmbeddedFlow
    from dovetail.embedded.project_client import ProjectClient, load
    from dovetail.features.project import Description, Project
    from dovetail.platform.config.load import Config
    from dovetail.samples.reader import Reader
    from dovetail.trainer.learner import Learner
    from dovetail.trainer.models.publish import Model, ModelDirectory
    from dovetail.trainer.models.scorer import Scorer
    from dovetail.trainer.optimizers import Ftrl
    from dovetail.trainer.samples.encoding import Encoder, InputSpec

    #: The version that is installed, like ``0.1.0``.
    __version__: str
else:
    #: Where the names live that are imported when they are first asked for.
    _HOMES = {
        "Config": "dovetail.platform.config.load",
        "Description": "dovetail.features.project",
        "EmbeddedFlow": "dovetail.embedded.program_flow",
        "Encoder": "dovetail.trainer.samples.encoding",
        "Ftrl": "dovetail.trainer.optimizers",
        "InputSpec": "dovetail.trainer.samples.encoding",
        "Learner": "dovetail.trainer.learner",
        "Model": "dovetail.trainer.models.publish",
        "ModelDirectory": "dovetail.trainer.models.publish",
        "Project": "dovetail.features.project",
        "ProjectClient": "dovetail.embedded.project_client",
        "Reader": "dovetail.samples.reader",
        "Scorer": "dovetail.trainer.models.scorer",
        "load": "dovetail.embedded.project_client",
    }

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            from dovetail.platform.extras import DISTRIBUTION

            return globals().setdefault(name, version(DISTRIBUTION))
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
        return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))

    def __dir__() -> list[str]:
        return __all__
