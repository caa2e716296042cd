"""Forms of a table in which a value that many rows have is held once."""
