"""The label stores that the joins run over."""

from __future__ import annotations

from tests.platform.stores.label_servers import new_store
from tests.platform.stores.online_servers import redis_cluster_url

__all__ = ["new_store", "redis_cluster_url"]
