"""A historic log of files as streams, requests and labels: in event time, in step with the stages, resumable."""
