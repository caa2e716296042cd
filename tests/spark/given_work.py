"""Work for engines of days, made of generated definitions, and what an engine makes of it, to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.features import Project
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.streaming import Visibility
from dovetail.features.batch.views import run_batch_view
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet, JoinedView, Table
from dovetail.features.serving.versions import ForEach
from dovetail.features.stored.day_engine import DayEngine, DayWork, LocalDays, Part
from dovetail.features.stored.past_requests import RequestLog
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import DovetailError
from dovetail.platform.rows.positions import seen_column
from tests.features.parity.replay import bits
from tests.features.parity.strategies import Case

__all__ = ["ItemVersions", "Made", "assert_same", "made_by", "work_of_case", "work_of_project"]

Made = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ItemVersions:
    """Versions of batch views over one item, computed wherever they are asked for."""

    views: dict[str, BatchView]

    def table(self, view: str, version_us: int) -> pa.Table:
        return run_batch_view(self.views[view], version_us, _items)

    def stored(self, needed: Iterable[tuple[str, int]], each: ForEach = map) -> ItemVersions:
        return self


def _items(_: Table) -> pa.Table:
    schema = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})
    return pa.Table.from_pylist([{"item_id": 1, "category": "c", "available_at": 0}], schema=schema)


def work_of_project(project: Project, events: pa.Table, requests: pa.Table, folder: Path, **options: Any) -> DayWork:
    """The work that ``project``'s feature set is for ``requests``, of one stream, ``events``."""
    (folder / "requests").mkdir(parents=True)
    cut = max(1, requests.num_rows // 2)
    for number, part in enumerate((requests.slice(0, cut), requests.slice(cut))):
        pq.write_table(part, folder / "requests" / f"{number}.parquet")
    pq.write_table(events, folder / "events.parquet", row_group_size=max(1, events.num_rows // 3))
    features = project.feature_set
    return DayWork(
        features,
        features.columns,
        project.stream_views,
        project.batch_views,
        {"events": DayFiles.at(folder / "events.parquet", "event_time")},
        RequestLog(DayFiles.at(folder / "requests", "request_time"), project.request_schema),
        ItemVersions(dict(project.batch_views)),
        folder / "scratch",
        **options,
    )


def work_of_case(case: Case, folder: Path, visibility: Visibility, seen: int) -> DayWork:
    """The work that a generated view is for what is asked, each request having seen the first ``seen`` offsets.

    What is asked ``as_served`` is asked by event time as well.
    """
    view = case.view
    columns = tuple(
        FeatureColumn(name, f"view.{name}", 1, (("view", name),), "streaming", "duckdb", type_, quoted(f"view.{name}"))
        for name, type_ in zip(view.output_schema.names, view.output_schema.types, strict=True)
    )
    inputs = pa.schema([*case.probes.schema, *(pa.field(f"view.{f.name}", f.type) for f in view.output_schema)])
    joined = JoinedView("view", "streaming", view.entity)
    features = FeatureSet("features", "sql/features.sql", 1, "", (joined,), columns, inputs)
    folder.mkdir(parents=True)
    offsets = [[seen] * (3 * len(view.reads))] * case.probes.num_rows
    requests = case.probes.append_column(seen_column("view"), pa.array(offsets, pa.list_(pa.int64())))
    pq.write_table(requests, folder / "requests.parquet")
    events = {}
    for name, rows in case.given().items():
        pq.write_table(rows, folder / f"{name}.parquet", row_group_size=max(1, rows.num_rows // 3))
        time = {branch.stream.name: branch.stream.event_time for branch in view.reads}
        if name in time:
            events[name] = DayFiles.at(folder / f"{name}.parquet", time[name])
    return DayWork(
        features,
        columns,
        {"view": view},
        {},
        events,
        RequestLog(DayFiles.at(folder / "requests.parquet", "request_time"), case.probes.schema),
        ItemVersions({}),
        folder / "scratch",
        visibility,
        Limits(rows_per_piece=7),
        both=visibility == "as_served",
    )


def collected(_day: str, parts: Iterator[Part]) -> list[dict[str, Any]]:
    """The consumer: bits by column of each part, those by event time beside the others."""
    return [
        {"rows": part.requests.num_rows, "schema": str(part.values.schema)}
        | {name: bits(part.values.column(name)) for name in part.values.column_names}
        | {f"{name}, happened": bits(part.happened.column(name)) for name in part.happened.column_names}
        for part in parts
    ]


def made_by(engine: DayEngine, work: DayWork, name: str) -> Made:
    """By day, what ``engine`` makes."""
    mine = replace(work, scratch=work.scratch.with_name(f"scratch-{name}"))
    return dict(engine.days(mine, mine.requests.days(), collected, None))


def assert_same(engine: DayEngine, work: DayWork, told: str) -> None:
    """``engine`` makes of ``work`` what this process makes of it, errors included."""
    try:
        expected = made_by(LocalDays(), work, "local")
    except DovetailError as error:
        with pytest.raises(type(error)):
            made_by(engine, work, "cluster")
    else:
        assert made_by(engine, work, "cluster") == expected, told
