"""The stores that the conformance suites run over."""

from __future__ import annotations

from tests.platform.stores.label_servers import new_store
from tests.platform.stores.online_servers import new_online_store, redis_cluster_url

__all__ = ["new_online_store", "new_store", "redis_cluster_url"]
