"""Opens the label store that a URL names."""

from __future__ import annotations

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.extras import needs_extra
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.redis.addresses import is_redis_url
from dovetail.platform.stores.sql.labels import SqlLabelStore

__all__ = ["open_label_store"]


def open_label_store(url: str, name: str, redis: RedisConfig | None = None, *, read_only: bool = False) -> LabelStore:
    """The store at ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://`` or any SQLAlchemy URL.

    ``name`` is the project: in Redis it is the hash tag of all keys, a SQL database belongs to it. ``redis`` says how
    to get in.

    ``read_only``: a SQL database is opened so that it refuses changes; a Redis is asked for none when it is opened.

    Raises:
        ConfigError: the URL is malformed, its driver is not installed, or the database is another project's.
        StoreError: the store cannot be reached.
    """
    if is_redis_url(url):
        with needs_extra("a store at redis://", "redis"):
            from dovetail.platform.stores.redis.labels import RedisLabelStore  # its library is an extra
        return RedisLabelStore(url, name, redis or RedisConfig())
    return SqlLabelStore(url, name, read_only=read_only)
