"""Rows from outside: which topics take them, how files are read, and how rows are checked and sent."""
