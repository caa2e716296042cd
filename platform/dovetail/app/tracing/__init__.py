"""Traces by OpenTelemetry: the way of messages that bring one, through features, score and snapshot, or into state."""
