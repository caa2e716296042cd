"""The stores that long lists are kept in."""

from __future__ import annotations

from tests.platform.stores.online_servers import new_online_store, redis_cluster_url

__all__ = ["new_online_store", "redis_cluster_url"]
