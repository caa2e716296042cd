"""``[streams.*]`` and ``[rekeyed.*]`` of ``dovetail.toml``: the events that features are made of."""

from __future__ import annotations

from pydantic import Field

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["RekeyedConfig", "StreamConfig"]


class StreamConfig(Section):
    """A stream of behaviour events; its schema is the ``CREATE TABLE`` of the same name in ``sql/``."""

    topic: str = ""
    event_time: Name = "event_time"
    key: Name
    partitions: int = Field(default=1, ge=1, le=10_000)
    #: How far behind the newest event of its partition a request may be and still get exact values.
    allowed_lateness: DurationUs = 3_600_000_000
    #: An event further ahead of its message's timestamp is dead-lettered: it would expire everybody's state.
    max_ahead: DurationUs = 3_600_000_000


class RekeyedConfig(Section):
    """A stream made by Dovetail: the events of ``stream``, partitioned by another column.

    Definitions read it by its name, like any stream; its columns are those of ``stream``.
    """

    stream: Name
    key: Name
    topic: str = ""
    partitions: int = Field(default=1, ge=1, le=10_000)
    #: As of a stream. None: that of ``stream``.
    allowed_lateness: DurationUs | None = None
