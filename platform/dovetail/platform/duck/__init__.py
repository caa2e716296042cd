"""DuckDB as every floor opens it: hermetic, in UTC, within what it is granted; and a trace of what it is asked."""
