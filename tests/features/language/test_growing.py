"""Definitions that would take the memory or the time of the machine are refused; rows that do are turned away."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from dovetail.features import Project
from dovetail.features.batch import views
from dovetail.features.batch.views import run_batch_view
from dovetail.features.duck.bounded import Bounds
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.errors import DefinitionError, WireError

LoadProject = Callable[..., Project]
WINDOW = "(PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)"
TOO_MUCH = "computing it once takes more than 1024 MiB of memory; make the numbers smaller"


def view(expression: str) -> str:
    return f"SELECT user_id, {expression} AS v FROM behaviour WINDOW w AS {WINDOW}"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT request_id, item_id, len(range(1000000000)) AS v FROM request",
        "SELECT request_id, item_id, repeat('x', 2000000000) AS v FROM request",
        "SELECT request_id, item_id, list_resize([page], 1000000000) AS v FROM request",
        view("max(len(range(1000000000))) OVER w"),
        view("count(*) FILTER (WHERE len(range(1000000000)) > 1) OVER w"),
        view("count(*) OVER w + len(range(1000000000))"),
        view("count(*) OVER w").replace("behaviour", "behaviour WHERE len(range(1000000000)) > 1"),
        view("count(*) OVER w").replace("behaviour", "(SELECT *, range(1000000000) AS r FROM behaviour)"),
        "SELECT item_id, max(len(range(1000000000))) AS v FROM items GROUP BY item_id",
    ],
)
def test_a_definition_that_takes_too_much_of_no_row_is_refused(load_project: LoadProject, text: str) -> None:
    with pytest.raises(DefinitionError, match=TOO_MUCH):
        load_project({"sql/x.sql": text})


def test_a_frame_made_of_anything_is_refused(load_project: LoadProject) -> None:
    frame = WINDOW.replace("INTERVAL 1 HOUR", "to_seconds(len(range(1000000000)))")
    with pytest.raises(DefinitionError):
        load_project({"sql/x.sql": f"SELECT user_id, count(*) OVER w AS v FROM behaviour WINDOW w AS {frame}"})


def test_an_event_that_takes_too_much_is_turned_away_alone(load_project: LoadProject) -> None:
    project = load_project({"sql/x.sql": view("max(len(repeat(shop, quantity))) OVER w")})
    stream = project.streams["behaviour"]
    numbers = [2, 2_000_000_000, 3]
    events = pa.Table.from_pylist(
        [{"user_id": 1, "shop": "a", "quantity": number, "event_time": 0} for number in numbers],
        schema=stream.schema.arrow,
    )
    found = vet_events(stream, [project.stream_views["x"]])(events).refused
    assert list(found) == [1]
    assert "it takes more than 1024 MiB of memory" in found[1]


def test_a_batch_view_has_a_time_and_a_size(load_project: LoadProject, monkeypatch: pytest.MonkeyPatch) -> None:
    times = ", ".join(f"items AS i{number}" for number in range(2, 6))
    files = {
        "sql/pairs.sql": f"SELECT items.item_id, count(*) AS v FROM items, {times} GROUP BY items.item_id",
        "sql/named.sql": "SELECT items.item_id, items.category || i2.category AS v FROM items, items AS i2",
        "sql/growing.sql": "SELECT item_id, max(len(repeat(category, item_id))) AS v FROM items GROUP BY item_id",
    }
    project = load_project(files)
    rows = [{"item_id": number, "category": "a" * 100, "available_at": 0} for number in range(2_000)]
    table = pa.Table.from_pylist(rows, schema=project.tables["items"].schema.arrow)
    monkeypatch.setattr(views, "VIEW_BOUNDS", Bounds(memory_bytes=128 << 20, seconds=0.5, result_bytes=1 << 20))
    with pytest.raises(WireError, match=r"sql/pairs.sql:1: pairs as of 9 us takes longer than 0\.5 s"):
        run_batch_view(project.batch_views["pairs"], 9, lambda _: table)
    with pytest.raises(WireError, match="named as of 9 us takes more than the 1 MiB that a version may have"):
        run_batch_view(project.batch_views["named"], 9, lambda _: table)
    monkeypatch.setattr(views, "VIEW_BOUNDS", Bounds())
    found = run_batch_view(project.batch_views["growing"], 9, lambda _: table.slice(1, 2))
    assert found.column("v").to_pylist() == [100, 200]
    monkeypatch.setattr(views, "VIEW_BOUNDS", Bounds(memory_bytes=128 << 20))
    large = table.slice(1, 1).set_column(0, "item_id", pa.array([4_000_000]))
    with pytest.raises(WireError, match="growing as of 9 us takes more than 128 MiB of memory"):
        run_batch_view(project.batch_views["growing"], 9, lambda _: large)
