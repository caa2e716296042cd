"""State from archived partitions, made here or in tasks of a cluster."""
