"""Logs the demo replays: a built-in simulator and loaders for two public data sets.

``base`` says what a log is, ``find`` picks the loader for a folder, the other modules make one kind of log each.
"""
