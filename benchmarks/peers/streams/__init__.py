"""Streams: JSON events into windows, each hour's values of each user once the hour is over."""
