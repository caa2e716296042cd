"""DuckDB as Dovetail uses it: one kind of connection, expression lanes, the macros that definitions may call."""
