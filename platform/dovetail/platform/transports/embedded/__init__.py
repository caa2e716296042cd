"""The embedded transport: a durable log in one SQLite file."""
