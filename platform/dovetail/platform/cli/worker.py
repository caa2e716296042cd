"""``dovetail worker``: the Faust worker of a project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from dovetail.features import load
from dovetail.platform.app import assemble

__all__ = ["run"]


def run(project: Path, roles: Sequence[str]) -> NoReturn:
    """Run until SIGINT or SIGTERM; a failure ends the process with an exit code other than 0."""
    loaded = load(project)
    worker = assemble(loaded, roles=roles or None)
    # Faust's own command line takes it from here: signals, logging, exit code.
    names = ", ".join(worker.stages)
    Console().print(
        f"dovetail worker: {names}; broker {worker.runtime.app.conf.broker[0]}; Ctrl-C stops it in good order"
    )
    sys.argv = [sys.argv[0], "--quiet", "worker", "--without-web", "--loglevel=warn"]
    worker.runtime.app.main()
