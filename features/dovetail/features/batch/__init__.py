"""The meaning of definitions, evaluated in DuckDB. DuckDB is imported below this folder only."""
