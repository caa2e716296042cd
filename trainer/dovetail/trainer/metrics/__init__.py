"""Metrics of predictions: progressive evaluation, groups, plots, telemetry."""
