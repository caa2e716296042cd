"""The workers of a model on shards as stages: each a function of its topics' messages, kept with its position."""
