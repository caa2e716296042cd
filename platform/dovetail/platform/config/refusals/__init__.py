"""How ``dovetail.toml`` is refused."""
