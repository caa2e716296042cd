"""History: features of many requests at once, out of Parquet files."""
