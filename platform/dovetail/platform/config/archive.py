"""``[archive]`` in ``dovetail.toml``: how large archived files get, and how far the archive may be behind."""

from __future__ import annotations

from pydantic import Field

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Section

__all__ = ["ArchiveConfig"]


class ArchiveConfig(Section):
    """A file is written when a partition has ``max_rows`` rows, or its first has waited for ``max_delay``."""

    #: Rows of a partition that are held in memory, and are read again after a crash.
    max_rows: int = Field(default=500_000, ge=1)
    #: Audit, consistency and join see what is older than this.
    max_delay: DurationUs = 300_000_000
