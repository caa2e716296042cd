"""Labels by key, snapshots as served, and the samples they make together."""
