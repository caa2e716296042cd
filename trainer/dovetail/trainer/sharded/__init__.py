"""A model on many workers: its slots live on shards, which answer weights and apply gradients by consistent hashing."""
