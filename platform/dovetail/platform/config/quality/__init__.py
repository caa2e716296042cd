"""Limits of how much windows of the data may differ."""
