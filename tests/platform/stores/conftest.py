"""The label stores that the conformance suite runs over."""

from __future__ import annotations

from label_servers import new_store

__all__ = ["new_store"]
