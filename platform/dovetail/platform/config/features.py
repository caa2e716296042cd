"""The sections of ``dovetail.toml`` about features: all definitions, tables, and the schedules of batch views."""

from __future__ import annotations

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["BatchViewConfig", "FeaturesConfig", "TableConfig"]


class FeaturesConfig(Section):
    """The section ``[features]``."""

    #: A streaming view's value at a request leaves out the events at the request's own time: it is the value of a
    #: microsecond before. Part of what every streaming view means, so that one that has data cannot change it.
    strictly_before: bool = False


class TableConfig(Section):
    """An offline table (Parquet file or folder) that batch views read; schema from ``CREATE TABLE`` in ``sql/``."""

    path: str
    #: When a row became known. A run as of V sees rows with ``available_at <= V`` and nothing later.
    available_at: Name = "available_at"


class BatchViewConfig(Section):
    """Schedule of a batch view: a version for every multiple of ``every`` since 1970-01-01 UTC."""

    every: DurationUs = 86_400_000_000
