"""The batch join on Spark: rows are shuffled by request, joined by the batch join's own query, written by day."""

from dovetail.spark.label_join.join_run import SparkJoin
from dovetail.spark.label_join.join_work import JoinWork, Log, LogPart, SnapshotFile

__all__ = ["JoinWork", "Log", "LogPart", "SnapshotFile", "SparkJoin"]
