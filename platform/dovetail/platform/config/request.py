"""``[request]``: the ranking requests."""

from __future__ import annotations

from pydantic import Field

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["RequestConfig"]


class RequestConfig(Section):
    """Ranking requests; schema is ``CREATE TABLE request`` in ``sql/``, whose ``candidates`` is a list of structs."""

    topic: str = "requests"
    partitions: int = Field(default=1, ge=1, le=10_000)
    feature_set: Name = "ranking"
    snapshots_topic: str = "snapshots"
    #: How far the requests of a partition may be out of order; labels to be attributed wait this much longer.
    allowed_lateness: DurationUs = 0
    #: A request further ahead of its message's timestamp is dead-lettered: all behind it would wait for its labels.
    max_ahead: DurationUs = 3_600_000_000
    #: A request whose id was in its partition no longer than this before is that one again: it is answered like it and
    #: makes no samples. None: ids are not looked at, and each request is one of its own.
    unique_within: DurationUs | None = None
    #: Whether a request whose candidates have an ``item_id`` twice is refused; else each of them is a row of its own,
    #: with a sample of its own.
    unique_candidates: bool = False
    #: Topics that scores may be asked for in, by the header ``dovetail-reply-to`` of a request.
    reply_topics: tuple[str, ...] = ()
