"""DuckDB as features use it: expression lanes, binding, the macros that definitions may call."""
