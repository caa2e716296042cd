"""Samples for trainers of any kind: read once each, in batches, and resumed exactly."""

from __future__ import annotations

from dovetail.samples.reader import Reader

__all__ = ["Reader"]
