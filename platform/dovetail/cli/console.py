"""``dovetail console``: the web pages of a project, or of a demo's kept run, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.cli.output import terminal
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.extras import needs_extra

if TYPE_CHECKING:
    from dovetail.features import Project

__all__ = ["console_of", "run"]


def run(project: Path, kept: Path | None, options: dict[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM. ``options`` replace values of ``[console]``; ``kept`` is a demo's folder.

    Raises:
        ConfigError: an option contradicts another, or the address cannot be listened on.
        StoreError: no worker has run there yet.
    """
    from dovetail.demo.kept_run import project_of_run
    from dovetail.features import load

    if kept is not None and project != Path():
        raise ConfigError("--project and --run name two things to look at; give one of them")
    loaded = load(project) if kept is None else project_of_run(kept)
    given = loaded.config.console or ConsoleConfig()
    # A tokens file that is named here is found from the working directory, one in dovetail.toml from the project.
    options = {name: value.absolute() if isinstance(value, Path) else value for name, value in options.items()}
    config = ConsoleConfig.model_validate({**given.model_dump(), **options})
    console = console_of(loaded, config)

    def started(url: str) -> None:
        terminal().print(f"console of {loaded.config.name}: {url} (it only reads; Ctrl-C ends it)")

    try:
        asyncio.run(console.alone(started))
    finally:
        console.close()


def console_of(project: Project, config: ConsoleConfig, waits: Callable[[], Mapping[str, str]] = dict) -> Any:
    """The console of a project; ``waits``: of stages that run in this process, what each waits for.

    Raises:
        ConfigError: its libraries are not installed.
    """
    with needs_extra("the console", "console"):
        from dovetail.console.hosting import Console
    return Console(project, config, waits)
