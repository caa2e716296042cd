"""Streaming views at the events of their own stream: what a row of a re-keyed stream is enriched with."""
