"""The registry: files, versions, definitions and runs, in SQL tables."""
