"""Batch evaluation on Spark: Spark schedules and shuffles, each task runs the definitions' own text in DuckDB.

An extra: ``pip install 'dovetail-samples[spark]'``. ``docs/decisions/0020-spark.md`` says why values travel sealed.
"""

from dovetail.spark.cluster import Cluster, Stage
from dovetail.spark.span_run import SparkDays

__all__ = ["Cluster", "SparkDays", "Stage"]
