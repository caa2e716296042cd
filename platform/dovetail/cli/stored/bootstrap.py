"""``dovetail bootstrap``: a view's online state from the archived event log."""

from __future__ import annotations

from pathlib import Path

from dovetail.app.storage import open_stores
from dovetail.cli.output import print_json, terminal
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.features.language.source import nearest
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.registration import register_rebuilt
from dovetail.platform.errors import ConfigError

__all__ = ["run"]


def run(project: Path, view: str, *, replace: bool, as_json: bool) -> int:
    """Fill the state of ``view``."""
    loaded = load(project)
    if view not in loaded.stream_views:
        raise ConfigError(f"VIEW: there is no streaming view {view!r}; {nearest(view, list(loaded.stream_views))}")
    stores = open_stores(loaded.config)
    console = terminal(stderr=as_json)
    try:
        with register_rebuilt(loaded, stores.registry, stores.online, view), DayProgress(console, view) as show:
            result = bootstrap(
                loaded.stream_views[view],
                stores.registry,
                stores.offline,
                stores.online,
                replace_existing=replace,
                on_rows=show.rows,
            )
    finally:
        stores.close()
    if as_json:
        print_json({"view": result.view, "rows": result.rows, "positions": result.positions})
    else:
        where = ", ".join(
            f"{offset} of partition {partition} of {stream}"
            for stream, partitions in result.positions.items()
            for partition, offset in sorted(partitions.items())
        )
        console.print(f"{view}: {result.rows:,} rows; the stream goes on at offset {where}")
    return 0
