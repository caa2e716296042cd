"""The error of a page that is asked for what is not there."""

from __future__ import annotations

__all__ = ["Nowhere"]


class Nowhere(Exception):
    """There is no such thing to show; the message says what was asked for, and what there is."""
