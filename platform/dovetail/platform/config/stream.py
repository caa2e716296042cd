"""``[streams.*]``, ``[rekeyed.*]`` and ``[labels.streams.*]`` of ``dovetail.toml``: what comes in, by which topics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["Aggregate", "LabelStreamConfig", "RekeyedConfig", "StreamConfig"]

#: What becomes of a column of several labels: of the first or last that took effect, or of all.
Aggregate = Literal["first", "last", "sum", "min", "max"]


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


class LabelStreamConfig(Section):
    """One kind of feedback; its schema has ``request_id`` (attributed: ``user_id``), ``item_id`` and ``event_time``."""

    topic: str = ""
    partitions: int = Field(default=1, ge=1, le=10_000)
    #: ``latest_request``: labels name user and item, and belong to the user's latest request that had the item.
    attribute: Literal["latest_request"] | None = None
    #: How long before the label that request may be. None: as long as any target waits.
    attribute_within: DurationUs | None = None
    #: Columns that samples have, as ``<kind>_<column>``: what this makes of all labels of the kind that count.
    values: dict[Name, Aggregate] = Field(default_factory=dict)
    #: The kind whose labels these take back: those of the same request and item that happened no later.
    retracts: Name | None = None

    @model_validator(mode="after")
    def _within_has_a_rule(self) -> LabelStreamConfig:
        if self.attribute is None and self.attribute_within is not None:
            raise ValueError('attribute_within needs attribute = "latest_request"; add it or remove attribute_within')
        return self
