"""A child process of a worker that computes messages which may have ended another (``process/probing.py``)."""

from __future__ import annotations

import sys
from typing import Any

from dovetail.app.roles import all_roles
from dovetail.app.worker import assemble
from dovetail.features import Project
from dovetail.platform.errors import ConfigError
from dovetail.platform.process.probing import serve
from dovetail.platform.stage import Stage

__all__ = ["stage_of"]


def stage_of(project: Any, name: str) -> Stage:
    """The stage of that name, in a worker put together for it and never started.

    Raises:
        ConfigError: the project has no such stage.
    """
    assert isinstance(project, Project)  # noqa: S101 - the parent's
    for role in all_roles(project.config):
        if name.split(".")[0] == role:
            return assemble(project, roles=(role,)).stages[name]
    raise ConfigError(f"there is no stage {name}")


if __name__ == "__main__":
    serve(stage_of)
    sys.stdout.flush()
