"""Features over stored rows: backfill, bootstrap, registration and consistency."""
