"""The name of the agent that makes a re-keyed stream, for all who look up its positions and accounts."""

from __future__ import annotations

__all__ = ["stage_name"]


def stage_name(rekeyed: str) -> str:
    """Under which the agent that makes stream ``rekeyed`` has its positions and accounts."""
    return f"rekey.{rekeyed}"
