"""Expressions at run time: compiled Arrow kernels where they equal DuckDB, and DuckDB for the rest."""
