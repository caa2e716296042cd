"""The archive: topics as Parquet files by day."""
