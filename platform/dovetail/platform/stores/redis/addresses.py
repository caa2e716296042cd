"""The URLs that name a Redis, known without its library."""

from __future__ import annotations

__all__ = ["is_redis_url"]

_SCHEMES = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")


def is_redis_url(url: str) -> bool:
    """Whether ``url`` names a Redis."""
    return url.startswith(_SCHEMES)
