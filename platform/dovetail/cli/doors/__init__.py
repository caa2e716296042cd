"""Commands that send rows: a few of a file, or a historic log in event time."""
