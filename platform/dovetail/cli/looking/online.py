"""``dovetail online``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pyarrow as pa

from dovetail.app.looking.chosen import chosen
from dovetail.app.looking.online_values import online_values
from dovetail.app.storage import open_stores
from dovetail.cli.looking.printing import print_rows
from dovetail.cli.looking.shown import Shown
from dovetail.cli.times import time_us_of
from dovetail.features import load
from dovetail.features.language.source import nearest
from dovetail.platform.errors import ConfigError

__all__ = ["run"]

_MOST_KEYS = 10_000


def run(project: Path, view: str, keys: Sequence[str], at: str | None, shown: Shown) -> int:
    """Show values."""
    loaded = load(project)
    if view not in loaded.stream_views:
        raise ConfigError(f"VIEW: there is no streaming view {view!r}; {nearest(view, list(loaded.stream_views))}")
    time_us = None if at is None else time_us_of("--at", at)
    limit = _MOST_KEYS if shown.asked.where is not None else shown.asked.limit or _MOST_KEYS
    stores = open_stores(loaded.config)
    try:
        found = online_values(loaded.stream_views[view], stores.online, keys, time_us=time_us, limit=limit)
    finally:
        stores.close()

    async def tables() -> AsyncIterator[pa.Table]:
        yield found

    asyncio.run(print_rows(view, chosen(tables(), shown.asked, _all), shown.shape, shown.out))
    return 0


def _all(table: pa.Table, _keys: Sequence[str]) -> pa.Array:
    return pa.repeat(pa.scalar(value=True), table.num_rows)
