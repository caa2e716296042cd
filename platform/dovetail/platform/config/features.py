"""The sections of ``dovetail.toml`` about features, tables, schedules of batch views, and where history is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Name, Section

__all__ = ["BatchConfig", "BatchViewConfig", "FeaturesConfig", "TableConfig"]


class FeaturesConfig(Section):
    """The section ``[features]``."""

    #: A streaming view's value at a request leaves out the events at the request's own time: it is the value of a
    #: microsecond before. Part of what every streaming view means, so that one that has data cannot change it.
    strictly_before: bool = False


class TableConfig(Section):
    """An offline table (Parquet, Iceberg, Delta) that batch views read; schema from ``CREATE TABLE`` in ``sql/``."""

    path: str = Field(min_length=1)
    #: When a row became known. A run as of V sees rows with ``available_at <= V`` and nothing later.
    available_at: Name = "available_at"


class BatchViewConfig(Section):
    """Schedule of a batch view: a version for every multiple of ``every`` since 1970-01-01 UTC."""

    every: DurationUs = 86_400_000_000


class BatchConfig(Section):
    """The engine of ``dovetail backfill`` and ``consistency``; no value depends on it."""

    #: ``local`` is this process; ``spark`` needs the extra ``dovetail-samples[spark]``.
    engine: Literal["local", "spark"] = "local"
    #: Spark's master: ``local[4]``, ``spark://…``, ``yarn``, ``k8s://…``, or ``sc://…`` for Spark Connect.
    master: str = Field(default="local[*]", min_length=1)
    #: Spark's own settings, by name: ``"spark.executor.memory" = "8g"``.
    spark: dict[str, str] = Field(default_factory=dict)
    #: Events of the days that are one job of Spark's: the more, the fewer events are read twice.
    span_rows: int = Field(default=1_000_000_000, ge=1)
