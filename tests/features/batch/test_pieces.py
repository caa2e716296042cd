"""Where an evaluation is cut, and how many threads run it, changes no value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.batch.streaming import Visibility
from dovetail.features.batch.views import run_batch_view
from dovetail.features.language.named_columns import columns_read
from dovetail.features.plan.definitions import Table
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import seen_column
from tests.generated import tries

ORIGIN = 946_857_600_000_000
TIMES = st.integers(-40, 40).map(lambda half: ORIGIN + half * 500_000)
KEYS = st.sampled_from([None, 1, 2, 3])
EVENT = st.fixed_dictionaries(
    {
        "user_id": KEYS,
        "item_id": KEYS,
        "kind": st.sampled_from(["a", "b", "z", None]),
        "price": st.none() | st.decimals(-1000, 1000, places=2),
        "n": st.none() | st.integers(-3, 3),
        "x": st.none() | st.floats(),
        "event_time": TIMES,
        "_partition": st.integers(0, 1),
        "_row": st.just(0),
    }
)
REQUEST = st.fixed_dictionaries(
    {
        "user_id": KEYS,
        "item_id": KEYS,
        "request_time": TIMES,
        "_seen_acts": st.lists(st.integers(0, 8), max_size=2),
        "_seen_users": st.lists(st.integers(0, 8), max_size=2),
    }
)


def items(_: Table) -> pa.Table:
    schema = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})
    return pa.Table.from_pylist([{"item_id": 1, "category": "c", "available_at": 0}], schema=schema)


def event_table(project: Project, rows: Sequence[dict[str, Any]]) -> pa.Table:
    extra = {"_partition": pa.int32(), "_offset": pa.int64(), "_row": pa.int32()}
    schema = pa.schema([*project.streams["events"].schema.arrow, *(pa.field(n, t) for n, t in extra.items())])
    return pa.Table.from_pylist([{**row, "_offset": o} for o, row in enumerate(rows)], schema=schema)


def request_table(project: Project, rows: Sequence[dict[str, Any]]) -> pa.Table:
    seen = [pa.field(seen_column(view), pa.list_(pa.int64())) for view in ("acts", "users")]
    schema = pa.schema([*project.request_schema, *seen])
    return pa.Table.from_pylist([{**row, "request_id": f"r{n}"} for n, row in enumerate(rows)], schema=schema)


def in_pieces(
    project: Project, events: pa.Table, requests: Sequence[pa.Table], limits: Limits, visibility: Visibility
) -> pa.Table:
    with evaluating(project, events, limits, visibility) as evaluator:
        return joined(project, [values for _, values in evaluator.evaluate(lambda: iter(requests), span_of(requests))])


@contextmanager
def evaluating(project: Project, events: pa.Table, limits: Limits, visibility: Visibility) -> Iterator[PieceEvaluator]:
    """An evaluator over ``events`` in a file; its scratch folder is gone in the end."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log").mkdir()
        pq.write_table(events, folder / "log" / "events.parquet")
        views = project.batch_views
        evaluator = PieceEvaluator(
            project.feature_set,
            project.feature_set.columns,
            project.stream_views,
            views,
            {"events": DayFiles.at(folder / "log" / "events.parquet", "event_time")},
            lambda view, version: run_batch_view(views[view], version, items),
            visibility=visibility,
            limits=limits,
            scratch=folder / "scratch",
        )
        yield evaluator
        assert not (folder / "scratch").exists()


def span_of(requests: Sequence[pa.Table]) -> Span:
    return Span(sum(r.num_rows for r in requests), ORIGIN - 20_000_000, ORIGIN + 20_000_000)


def joined(project: Project, parts: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables([project.feature_set.schema.empty_table(), *parts])


@settings(max_examples=tries(15))
@given(
    events=st.lists(EVENT, min_size=1, max_size=20),
    requests=st.lists(st.lists(REQUEST, max_size=5), max_size=3),
    piece=st.integers(5, 40),
    threads=st.sampled_from([1, 2, None]),
    visibility=st.sampled_from(["event_time", "as_served"]),
)
def test_pieces_give_what_the_whole_gives(
    project: Project,
    events: list[dict[str, Any]],
    requests: list[list[dict[str, Any]]],
    piece: int,
    threads: int | None,
    visibility: Visibility,
) -> None:
    log = event_table(project, events)
    rows, parts = in_parts(project, requests)
    whole = evaluate_feature_set(project, project.feature_set, rows, {"events": log}, items, visibility=visibility)
    cut = in_pieces(project, log, parts, Limits(rows_per_piece=piece, threads=threads), visibility)
    assert str(cut.to_pydict()) == str(whole.to_pydict())
    assert cut.schema == whole.schema


@settings(max_examples=tries(15))
@given(
    events=st.lists(EVENT, min_size=1, max_size=20),
    requests=st.lists(st.lists(REQUEST, max_size=5), max_size=3),
    piece=st.integers(5, 40),
)
def test_both_visibilities_at_once_are_each_by_itself(
    project: Project, events: list[dict[str, Any]], requests: list[list[dict[str, Any]]], piece: int
) -> None:
    log = event_table(project, events)
    rows, parts = in_parts(project, requests)
    with evaluating(project, log, Limits(rows_per_piece=piece), "as_served") as evaluator:
        made = list(evaluator.evaluate_both(lambda: iter(parts), span_of(parts)))
    assert [table.num_rows for table, _, _ in made] == [part.num_rows for part in parts]
    found: dict[Visibility, list[pa.Table]] = {
        "as_served": [values for _, values, _ in made],
        "event_time": [happened for _, _, happened in made],
    }
    for visibility, values in found.items():
        set_ = project.feature_set
        whole = evaluate_feature_set(project, set_, rows, {"events": log}, items, visibility=visibility)
        assert str(joined(project, values).to_pydict()) == str(whole.to_pydict()), visibility


def test_rows_that_saw_every_event_are_evaluated_once(project: Project) -> None:
    row = {"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 1, "x": None, "_partition": 0, "_row": 0}
    log = event_table(project, [{**row, "event_time": ORIGIN}])
    asked = {"user_id": 1, "item_id": 1, "request_time": ORIGIN}
    for seen, once in (([1], True), ([0], False)):
        rows = request_table(project, [{**asked, seen_column("acts"): seen, seen_column("users"): seen}])
        with evaluating(project, log, Limits(), "as_served") as evaluator:
            ((_, served, happened),) = evaluator.evaluate_both([rows].__iter__, span_of([rows]))
        assert (served is happened) == once
    with (
        evaluating(project, log, Limits(), "event_time") as evaluator,
        pytest.raises(ValueError, match="'event_time' is not as_served"),
    ):
        evaluator.evaluate_both(lambda: iter([]), span_of([]))


def test_requests_are_read_once_for_all_views_and_once_for_their_values(project: Project) -> None:
    rows = request_table(project, [{"user_id": 1, "item_id": 1, "request_time": ORIGIN}])
    read: list[int] = []

    def requests() -> Iterator[pa.Table]:
        read.append(len(read))
        yield rows

    assert len(project.stream_views) == 2
    with evaluating(project, event_table(project, []), Limits(), "event_time") as evaluator:
        list(evaluator.evaluate(requests, span_of([rows])))
    assert read == [0, 1]


def in_parts(project: Project, requests: Sequence[list[dict[str, Any]]]) -> tuple[pa.Table, list[pa.Table]]:
    rows = request_table(project, [row for part in requests for row in part])
    ends = [sum(map(len, requests[:n])) for n in range(len(requests) + 1)]
    return rows, [rows.slice(a, b - a) for a, b in pairwise(ends)]


def test_a_hot_key_is_cut_by_time(project: Project) -> None:
    row = {"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 1, "x": None, "_partition": 0, "_row": 0}
    log = event_table(project, [{**row, "event_time": ORIGIN + s * 100_000} for s in range(200)])
    asked = [{"user_id": 1, "item_id": 1, "request_time": ORIGIN + s * 200_000} for s in range(100)]
    rows = request_table(project, asked)
    whole = evaluate_feature_set(project, project.feature_set, rows, {"events": log}, items)
    assert in_pieces(project, log, [rows], Limits(rows_per_piece=20), "event_time").equals(whole)


def test_requests_that_do_not_say_what_they_saw_are_refused(project: Project) -> None:
    rows = request_table(project, [{"user_id": 1, "item_id": 1, "request_time": ORIGIN}])
    log = event_table(project, [])
    with pytest.raises(WireError, match=r"do not say what acts had seen \(no column '_seen_acts'\)"):
        in_pieces(project, log, [rows.drop_columns(["_seen_acts"])], Limits(), "as_served")


def test_what_a_view_reads_is_known(project: Project) -> None:
    assert columns_read(project.stream_views["users"]) == ["user_id", "event_time"]
    assert columns_read(project.stream_views["acts"]) == project.streams["events"].schema.arrow.names
    assert earliest_read(project.stream_views["users"], ORIGIN) == ORIGIN - 5_000_000
    # hop(…, 10 s, 4 s): 10 s back, then down to the bucket.
    assert earliest_read(project.stream_views["acts"], ORIGIN) == ORIGIN - 12_000_000


def test_nothing_is_left_when_the_reader_stops_early(project: Project, tmp_path: Path) -> None:
    pq.write_table(event_table(project, []), tmp_path / "events.parquet")
    evaluator = PieceEvaluator(
        project.feature_set,
        project.feature_set.columns,
        project.stream_views,
        project.batch_views,
        {"events": DayFiles.at(tmp_path / "events.parquet", "event_time")},
        lambda view, version: run_batch_view(project.batch_views[view], version, items),
        scratch=tmp_path / "scratch",
    )
    rows = request_table(project, [{"user_id": 1, "item_id": 1, "request_time": ORIGIN}])

    def twice() -> Iterator[pa.Table]:
        yield rows
        yield rows

    parts = evaluator.evaluate(twice, Span(2, ORIGIN, ORIGIN))
    next(parts)
    assert (tmp_path / "scratch").exists()
    parts.close()  # type: ignore[attr-defined]  # it is a generator
    assert not (tmp_path / "scratch").exists()
