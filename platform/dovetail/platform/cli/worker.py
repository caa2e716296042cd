"""``dovetail worker``: the Faust worker of a project."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dovetail.features import load
from dovetail.platform.app import ROLES, assemble

__all__ = ["run"]


def run(project: Path, roles: Sequence[str]) -> int:
    """Run until SIGINT or SIGTERM; a failure ends it with an exit code other than 0."""
    loaded = load(project)
    default = [role for role in ROLES if role != "trainer" or loaded.config.model is not None]
    worker = assemble(loaded, roles=roles or default)
    os.environ.setdefault("FAUST_DATADIR", str(loaded.config.path(loaded.config.storage.state)))
    return worker.runtime.run_worker()
