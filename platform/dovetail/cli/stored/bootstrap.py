"""``dovetail bootstrap``: a view's online state from the archived event log, and that log's past from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dovetail.app.jobs import day_engine
from dovetail.app.storage import Stores, open_stores
from dovetail.cli.output import print_json, terminal
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import Project, load
from dovetail.features.language.source import nearest
from dovetail.features.stored.bootstrap import BootstrapResult, bootstrap, require_replaceable
from dovetail.features.stored.day_engine import LocalDays
from dovetail.features.stored.history import History, HistorySource, archive_history, history_of
from dovetail.features.stored.registration import register_rebuilt
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import ConfigError, StateError, StoreError, WireError

__all__ = ["run"]


def run(
    project: Path,
    view: str,
    events: Mapping[str, str],
    before_us: int | None,
    *,
    replace: bool,
    as_json: bool,
    engine: str | None = None,
    master: str | None = None,
) -> int:
    """Archive the past of streams from ``events``, paths by stream, and fill the state of ``view``.

    ``engine`` and ``master`` instead of those of ``[batch]``.
    """
    loaded = load(project)
    if view not in loaded.stream_views:
        raise ConfigError(f"VIEW: there is no streaming view {view!r}; {nearest(view, list(loaded.stream_views))}")
    plan = loaded.stream_views[view]
    sources = list(_sources(loaded, view, events, before_us))
    stores = open_stores(loaded.config)
    console = terminal(stderr=as_json)
    try:
        require_replaceable(plan, stores.online, replace_existing=replace)  # before a past is archived, which stays
        with register_rebuilt(loaded, stores.registry, stores.online, view):
            for name, source in sources:
                _take_past(loaded, stores, name, source, DayProgress(console, f"past of {name}"))
            with day_engine(loaded.config.batch, engine, master) as work, DayProgress(console, view) as show:
                result = bootstrap(
                    plan,
                    stores.registry,
                    stores.offline,
                    stores.online,
                    replace_existing=replace,
                    on_rows=show.rows,
                    each=None if isinstance(work, LocalDays) else work.each,
                )
        pasts = {name: found for name in plan.stream_names if (found := history_of(stores.registry, name)) is not None}
    finally:
        stores.close()
    if as_json:
        told = {
            name: {"source": past.source, "partition": past.partition, "rows": past.rows}
            for name, past in pasts.items()
        }
        print_json({"view": result.view, "rows": result.rows, "positions": result.positions, "pasts": told})
    else:
        console.print(f"{view}: {result.rows:,} rows; {_said(result, pasts)}")
    return 0


def _sources(
    project: Project, view: str, events: Mapping[str, str], before_us: int | None
) -> Iterator[tuple[str, HistorySource]]:
    names = project.stream_views[view].stream_names
    for name, path in events.items():
        if name not in names:
            raise ConfigError(f"--events: {view} does not read a stream {name!r}; {nearest(name, list(names))}")
        try:
            yield name, HistorySource(path, DayFiles.at(path, project.streams[name].event_time), before_us)
        except (StoreError, WireError) as error:
            raise ConfigError(f"--events {name}={path}: {error}") from error


def _take_past(project: Project, stores: Stores, name: str, source: HistorySource, show: DayProgress) -> None:
    try:
        with show:
            archive_history(project, project.streams[name], stores.registry, stores.offline, source, on_rows=show.rows)
    except (StateError, WireError) as error:  # of what was given
        raise ConfigError(str(error)) from error


def _said(result: BootstrapResult, pasts: Mapping[str, History]) -> str:
    """What the state includes, and where the stream goes on."""
    said = [f"{past.rows:,} rows of the past of {name} from {past.source}" for name, past in pasts.items()]
    at = [
        f"{offset} of partition {partition} of {stream}"
        for stream, partitions in result.positions.items()
        for partition, offset in sorted(partitions.items())
        if stream not in pasts or partition != pasts[stream].partition
    ]
    goes_on = f"at offset {', '.join(at)}" if at else "at its first message"
    return "; ".join([*(f"with {text}" for text in said), f"the stream goes on {goes_on}"])
