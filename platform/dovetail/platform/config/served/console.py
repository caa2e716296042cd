"""``[console]`` of ``dovetail.toml``: where a worker shows its pages, and who may see them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dovetail.platform.config.served.listening import ListeningConfig

__all__ = ["ConsoleConfig"]


class ConsoleConfig(ListeningConfig):
    """The console of the project. Workers of a project without this section have none; the command does without it."""

    section: ClassVar[str] = "console"

    port: int = Field(default=8090, ge=0, le=65_535)
    max_waiting: int = Field(default=16, ge=1, le=65_536)
