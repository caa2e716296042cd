"""Commands over stored rows: backfill, bootstrap, consistency, join, audit."""
