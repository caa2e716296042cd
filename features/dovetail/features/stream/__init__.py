"""The stream engine: what a streaming view keeps per key, how events change it, how a value is read off it.

``layout`` (what is kept) → ``keys`` and ``prepare`` (Arrow columns to words) → ``engine`` (events into states, states
into values). Meaning is DuckDB's; see ``docs/decisions/0003-feature-state.md``.
"""
