"""A project in a program: past features are those of the log, samples are chosen, rows are sent and requests ranked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from dovetail.platform.errors import ConfigError, StateError, WireError
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention
from dovetail.sdk import ProjectClient, load
from tests.app.small_project import at, click, exposure, request, write_project

EVENTS = [{"user_id": user, "event_time": at(second)} for second in range(5) for user in ("u", "v")][:9]


def _pandas(rows: list[dict[str, Any]]) -> Any:
    # No test needs it installed: PyArrow imports it in every process that has it, which takes half a second.
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(rows)


def _polars(rows: list[dict[str, Any]]) -> Any:
    polars = pytest.importorskip("polars", reason="Polars is not installed")
    return polars.DataFrame(rows)


def _duckdb(rows: list[dict[str, Any]]) -> Any:
    return duckdb.connect().from_arrow(pa.Table.from_pylist(rows))


#: By name, how a library holds rows.
LIBRARIES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "dictionaries": list,
    "pyarrow": pa.Table.from_pylist,
    "record batches": lambda rows: pa.Table.from_pylist(rows).to_reader(),
    "pandas": _pandas,
    "polars": _polars,
    "duckdb": _duckdb,
}


@pytest.fixture
def project(tmp_path: Path) -> ProjectClient:
    write_project(tmp_path / "project", messages={})
    return load(tmp_path / "project")


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_sends_asks_and_takes(project: ProjectClient, library: str) -> None:
    held = LIBRARIES[library]
    assert project.send("behaviour", held(EVENTS)) == 9
    asked = [request("r0", "u", [1, 2], 3), request("r1", "v", [1], 100), request("r2", "w", [7], 1)]
    found = project.features(held(asked))
    assert found.to_pylist() == [
        {"request_id": name, "item_id": item, "events": count}
        for name, item, count in (("r0", 1, 4), ("r0", 2, 4), ("r1", 1, 4), ("r2", 7, 0))
    ]
    flat = [_flat(one, item) for one in asked for item in range(len(one["candidates"]))]
    assert project.features(held(flat)).equals(found)
    if library not in ("dictionaries", "record batches"):
        assert duckdb.connect().execute("SELECT sum(events) FROM found").fetchall() == [(12,)]


def test_past_features_are_of_the_archive_and_of_what_is_behind_it(project: ProjectClient) -> None:
    """The same events, archived by a worker, in the topic only, or given: the same values, each event once."""
    asked = [request(f"r{second}", "u", [1], second) for second in range(6)]
    with project.embedded() as flow:
        assert project.send("behaviour", EVENTS[:5]) == 5  # by the flow that runs
        flow.until_idle()
    assert project.features(asked).column("events").to_pylist() == [1, 2, 3, 3, 3, 3]
    assert project.send("behaviour", EVENTS[5:]) == 4
    found = project.features(asked, columns=["events"])
    assert found.column("events").to_pylist() == [1, 2, 3, 4, 5, 5]
    with project.embedded() as flow:
        flow.until_idle()
        assert project.features(asked).equals(found)
        assert project.features(asked, events={"behaviour": EVENTS}).equals(found)
    assert project.features(asked, events={"behaviour": EVENTS[:1]}).column("events").to_pylist() == [1] * 6
    assert project.features(asked, events={"behaviour": []}).column("events").to_pylist() == [0] * 6
    assert found.equals(project.evaluate(None, _table(asked), {"behaviour": _table(EVENTS)}))


def _flat(asked: dict[str, Any], item: int = 0) -> dict[str, Any]:
    """One row of a request: its columns, and those of one candidate."""
    return {**{name: value for name, value in asked.items() if name != "candidates"}, **asked["candidates"][item]}


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist(rows)
    for number, name in enumerate(table.column_names):
        if name.endswith("_time"):
            times = table.column(name).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
            table = table.set_column(number, name, times)
    return table


def test_a_request_of_the_past_that_does_not_fit_is_named(project: ProjectClient) -> None:
    good = request("r", "u", [1], 1)
    nobody = pa.Table.from_pylist([good, {**good, "user_id": None}])
    bad: list[tuple[Any, str]] = [
        ([good, {**good, "request_time": "soon"}], r"requests: row 1: .*timestamp.*soon"),
        (nobody, r"requests: row 1: column user_id is missing or NULL"),
        ([good, {**good, "candidates": [{"item_id": 1}, None]}], r"requests: row 1: candidate 1 \(from 0\) is NULL"),
        ([{"request_id": "r", "item_id": 1, "request_time": at(1)}], "no column 'user_id', which the features read"),
        (_flat(good) | {"user_id": None}, r"requests: row 0: column user_id is missing or NULL"),
        ("requests", "a list of dictionaries, not str"),
    ]
    for rows, reason in bad:
        with pytest.raises(WireError, match=reason):
            project.features(rows)
    with pytest.raises(ConfigError, match=r"there is no feature set 'rank'; .*ranking"):
        project.features([good], feature_set="rank")
    with pytest.raises(ConfigError, match=r"columns: ranking has no column 'event'; .*events"):
        project.features([good], columns=["event"])
    with pytest.raises(ConfigError, match="give a list of names"):
        project.features([good], columns="events")
    with pytest.raises(ConfigError, match=r"events: there is no stream 'behavior'; .*behaviour"):
        project.features([good], events={"behavior": EVENTS})
    with pytest.raises(WireError, match="behaviour: row 1: column event_time is missing"):
        project.features([good], events={"behaviour": [EVENTS[0], {"user_id": "u"}]})
    assert project.features([]).schema.names == ["request_id", "item_id", "events"]
    assert project.features([request("none", "u", [], 1)]).num_rows == 0


def test_events_that_are_gone_are_no_zero(project: ProjectClient) -> None:
    project.send("behaviour", EVENTS)
    with EmbeddedLog.open(project.config.root / "state" / "log.sqlite") as log:
        log.create_topic("behaviour", 1, retention=LogRetention(max_bytes=1))
        log.append([Outgoing("behaviour", b"{}", partition=0, timestamp_ms=0)])
    asked = request("r0", "u", [1, 2], 3)
    with pytest.raises(StateError, match="events of stream behaviour, partition 0, from offset 0 to 8 are gone"):
        project.features(asked)
    assert project.features(asked, events={"behaviour": EVENTS}).column("events").to_pylist() == [4, 4]


def test_samples_are_chosen_by_day_column_and_condition(project: ProjectClient) -> None:
    with project.embedded() as flow:
        project.send("behaviour", EVENTS)
        flow.until_idle(release=False)
        ranked = project.rank([request("r0", "u", [1, 2, 3], 4)])
        project.send("exposure", [exposure("r0", item, 6) for item in (1, 2)])
        project.send("click", [click("u", 1, 7)])
        flow.until_idle()
    assert ranked.column("events").to_pylist() == [5, 5, 5]
    wanted = ["item_id", "label"]
    assert project.samples(columns=wanted).to_pylist() == [{"item_id": 1, "label": 1}, {"item_id": 2, "label": 0}]
    assert project.samples(columns=wanted, where="label = 1 AND events > 4").to_pylist() == [{"item_id": 1, "label": 1}]
    assert project.samples(("2024-01-01", "2024-01-01"), where="label = 2").num_rows == 0
    assert project.samples(("2023-01-01", "2023-12-31")).num_rows == 0
    assert project.samples(topic=False, columns=wanted).num_rows == 2
    with pytest.raises(ConfigError, match=r"where 'labels = 1': .*labels"):
        project.samples(where="labels = 1")
    with pytest.raises(ConfigError, match=r"no column 'lable'; .*label"):
        project.samples(columns=["lable"], where="label = 1")
    with pytest.raises(ConfigError, match="target 'other' is not declared"):
        project.samples(target="other")


def test_a_call_by_itself_starts_what_it_needs(project: ProjectClient) -> None:
    assert project.send("behaviour", EVENTS) == 9
    ranked = project.rank(request("alone", "u", [1, 2], 4))
    assert ranked.select(["request_id", "item_id", "score", "events"]).to_pylist() == [
        {"request_id": "alone", "item_id": item, "score": 0.5, "events": 5} for item in (1, 2)
    ]
    with pytest.raises(WireError, match=r"behaviour: row 0: .*event_time.* \(1 more rows are refused\)"):
        project.send("behaviour", [{"user_id": "u"}, {}, EVENTS[0]])
    with pytest.raises(ConfigError, match="topic: no rows are sent to 'behavior'"):
        project.send("behavior", EVENTS)
    assert project.send("behaviour", []) == 0
