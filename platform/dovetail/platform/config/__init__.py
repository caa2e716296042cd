"""The tables of ``dovetail.toml``, each checked when it is read."""
