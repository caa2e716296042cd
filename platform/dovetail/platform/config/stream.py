"""``[streams.*]``, ``[rekeyed.*]`` and ``[labels.streams.*]`` of ``dovetail.toml``: what comes in, by which topics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["Aggregate", "EventIdsConfig", "LabelStreamConfig", "RekeyedConfig", "StreamConfig"]

#: What becomes of a column of several labels: of the first or last that took effect, or of all.
Aggregate = Literal["first", "last", "sum", "min", "max"]


class EventIdsConfig(Section):
    """How the rows of a topic are known when they come again; part of the sections of streams and kinds of labels."""

    #: The column that has a row's id. None: only ids that messages have as a header (calls with an Idempotency-Key).
    event_id: Name | None = None
    #: A row whose id was in its partition no longer than this before is that one again, and no event. None: ids are not
    #: looked at, and each row is an event of its own.
    unique_within: DurationUs | None = None

    @model_validator(mode="after")
    def _ids_have_a_window(self) -> EventIdsConfig:
        if self.event_id is not None and self.unique_within is None:
            raise ValueError(
                'event_id: ids are remembered for unique_within, which is missing; add it, like unique_within = "1d"'
            )
        return self


class StreamConfig(EventIdsConfig):
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
    """A stream made by Dovetail: the events of ``stream``, which may be re-keyed itself, partitioned by another column.

    Definitions read it by its name, like any stream; its columns are those of ``stream``, and of the views in
    ``enrich``.
    """

    stream: Name
    key: Name
    topic: str = ""
    partitions: int = Field(default=1, ge=1, le=10_000)
    #: Views whose columns each row gets: batch views in the version in force at its event time, streaming views over
    #: ``stream`` as of the row.
    enrich: tuple[Name, ...] = ()
    #: As of a stream. None: that of ``stream``.
    allowed_lateness: DurationUs | None = None

    @field_validator("enrich")
    @classmethod
    def _each_view_once(cls, enrich: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((view for view in enrich if enrich.count(view) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands twice, and a row gets its columns once; remove one")
        return enrich


class LabelStreamConfig(EventIdsConfig):
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
            raise ValueError(
                'attribute_within: it needs attribute = "latest_request"; add that, or remove attribute_within'
            )
        return self
