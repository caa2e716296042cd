"""The stored world, for commands over stored rows."""

from __future__ import annotations

from tests.features.stored.conftest import world

__all__ = ["world"]
