"""Events of runs by OpenLineage: backfill, join and train, told to whoever collects the lineage of data."""
