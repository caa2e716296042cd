"""Notes of archived rows beside their files: marks to find them by, and sketches of windows."""
