"""Sections of ``dovetail.toml`` for what is served over HTTP."""
