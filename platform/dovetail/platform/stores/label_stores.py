"""Which label store a URL names."""

from __future__ import annotations

from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.redis_labels import RedisLabelStore
from dovetail.platform.stores.sql_labels import SqlLabelStore

__all__ = ["open_label_store"]


def open_label_store(url: str, name: str) -> LabelStore:
    """The store at ``redis://``, ``rediss://``, ``unix://`` or any SQLAlchemy URL. In Redis ``name`` is the hash tag.

    Raises:
        ConfigError: the URL is malformed or its driver is not installed.
        StoreError: the store cannot be reached.
    """
    if url.startswith(("redis://", "rediss://", "unix://")):
        return RedisLabelStore(url, name)
    return SqlLabelStore(url)
