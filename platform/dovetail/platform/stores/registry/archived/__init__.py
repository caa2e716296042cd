"""Notes of archived rows beside their files: marks to find them by."""
