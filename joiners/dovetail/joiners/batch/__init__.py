"""The join, attribution and label audit in batch, in DuckDB."""
