"""Stages that keep feature state and re-key streams, and the features of a request from the stores."""
