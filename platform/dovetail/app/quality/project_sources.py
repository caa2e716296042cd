"""The datasets of a project whose quality is judged: streams, requests, labels, served and trained features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dovetail.app.datasets import datasets
from dovetail.app.quality.alerts import Dated, Quality, Source, judge
from dovetail.app.quality.profiles import Profile, plain_columns, profiles_of
from dovetail.app.storage import Stores, load_table
from dovetail.features import Project
from dovetail.platform.archive.dayfiles import NEVER_US, DayFiles
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.shared import shared_names

__all__ = ["judged_fields", "quality_of", "served_of", "sources_of", "tables_of"]


def quality_of(
    project: Project,
    stores: Stores,
    *,
    first_us: int | None = None,
    last_us: int | None = None,
    on_window: Callable[[int, int, int], None] | None = None,
) -> Quality:
    """Judge the archive of a project by its ``[quality]``: the whole windows of the days from one to the other.

    Windows before ``first_us`` are references, and read as such. The last window is that of the newest row of all.

    Raises:
        ConfigError: nothing is archived, or no whole window.
        WireError: an offline table cannot be read.
    """
    sources, spans = sources_of(project, stores)
    if not spans:
        raise ConfigError("nothing is archived yet, so there is nothing to judge; run the project's worker")
    config = project.config.quality
    oldest, newest = min(low for low, _ in spans), max(high for _, high in spans)
    begin = oldest if first_us is None else max(oldest, first_us - config.reference * config.window)
    found = judge(
        config, sources, tables_of(project),
        first_us=begin, last_us=newest if last_us is None else min(newest, last_us), since_us=first_us,
        on_window=on_window,
    )  # fmt: skip
    if not found.windows:
        raise ConfigError("the archive has no whole window of [quality] window in these days; take a shorter one")
    return found


def sources_of(project: Project, stores: Stores) -> tuple[list[Source], list[tuple[int, int]]]:
    """Every dataset that has rows, and the first and the last microsecond of each."""
    judged, found, spans = judged_fields(project), [], []
    for dataset in datasets(project):
        if dataset.name not in judged:
            continue
        files = DayFiles.archived(stores.registry, stores.offline, dataset.name, dataset.day_of)
        if (ends := files.ends_us(None, NEVER_US)) is None:
            continue
        there = files.columns(None, NEVER_US).names
        fields = [field for field in judged[dataset.name] if field.name in {*there, *shared_names(there)}]
        # Files from before a column was declared have NULL in it.
        files = replace(files, declared=pa.schema([field.with_nullable(True) for field in fields]))
        columns = [field.name for field in fields]
        found.append(_source(dataset.name, files, columns))
        spans.append(ends)
    return found, spans


def judged_fields(project: Project) -> dict[str, list[pa.Field]]:
    """The columns that are judged, by dataset; of requests their number alone is."""
    features = list(project.feature_set.schema)
    judged: dict[str, list[pa.Field]] = {
        "snapshots": features, "samples": [*features, pa.field("label", pa.int8())], "requests": [],
    }  # fmt: skip
    for name, stream in project.streams.items():
        judged[name] = [field for field in stream.schema.arrow if field.name != stream.event_time]
    for kind, schema in project.label_schemas.items():
        judged[kind] = [field for field in schema.arrow if field.name not in ("request_id", "event_time")]
    return judged


def tables_of(project: Project) -> list[Dated]:
    """The offline tables that batch views read."""
    every: dict[str, int] = {}
    tables = {}
    for view in project.batch_views.values():
        for table in view.tables:
            name = table.schema.name
            every[name] = min(every.get(name, view.every_us), view.every_us)
            tables[name] = table
    found = []
    for name, table in tables.items():
        column = load_table(project.config, table).column(table.available_at)
        times = np.sort(column.drop_null().cast(pa.timestamp("us")).cast(pa.int64()).to_numpy())
        found.append(Dated(name, every[name], _newest(times)))
    return found


def _newest(times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Callable[[int], int | None]:
    def newest(end_us: int) -> int | None:
        at = int(np.searchsorted(times, end_us, side="right"))
        return int(times[at - 1]) if at else None

    return newest


def _source(name: str, files: DayFiles, columns: Sequence[str]) -> Source:
    def count(low_us: int, high_us: int) -> int:
        return sum(part.num_rows for part in files.read([files.time_column], low_us, high_us))

    def profiles(low_us: int, high_us: int, step: int) -> list[Profile]:
        parts = [plain_columns(part) for part in _every(step, files.read(columns, low_us, high_us))]
        return profiles_of(name, columns, pa.concat_tables(parts, promote_options="permissive"), low_us)

    return Source(name, count, profiles, served_of(name))


def served_of(dataset: str) -> str:
    """The dataset whose columns those of ``dataset`` should be like; empty: there is none."""
    return "snapshots" if dataset == "samples" else ""


def _every(step: int, parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Each ``step``-th row of all parts together."""
    skip = 0
    for part in parts:
        if step == 1:
            yield part
            continue
        rows = np.arange(skip, part.num_rows, step)
        skip = (skip - part.num_rows) % step
        yield part.take(pa.array(rows))
