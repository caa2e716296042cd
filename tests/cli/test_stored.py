"""The commands over stored data: what they print, and their exit codes."""

from __future__ import annotations

import json
import sys
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dovetail.cli import main
from tests.features.stored.stored_world import FILES, HOUR, World, events, requests


class Ran:
    """A command's exit code and what it printed."""

    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error


@pytest.fixture
def dovetail(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command of the project in ``world``."""
    world.send(events(60))
    world.stream("users")
    world.ask(requests(2))
    world.archive()

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dovetail", *arguments, "--project", str(world.folder)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), printed.out, " ".join(printed.err.split()))

    return run


def test_backfill_prints_a_line_a_day_and_then_nothing_is_left(dovetail: Any, world: World) -> None:
    out = str(world.folder / "out")
    ran = dovetail("backfill", "ranking", "--out", out, "--columns", "clicks, hour", "--threads", "1", "--memory", "64")
    assert ran.code == 0
    assert "2024-03-18  1 of 2 days" in ran.out
    assert "2 days written, 30 rows" in " ".join(ran.out.split())
    assert ds.dataset(out, format="parquet").schema.names == ["request_id", "item_id", "request_time", "hour", "clicks"]
    again = json.loads(dovetail("backfill", "ranking", "--out", out, "--columns", "clicks,hour", "--json").out)
    assert (again["written"], again["done_before"]) == ([], ["2024-03-18", "2024-03-19"])


def test_a_backfill_is_told_as_a_run(dovetail: Any, world: World) -> None:
    toml = world.folder / "dovetail.toml"
    toml.write_text(toml.read_text() + '\n[openlineage]\nfile = "lineage.jsonl"\n')
    out = str(world.folder / "out")
    assert dovetail("backfill", "ranking", "--out", out, "--columns", "clicks, hour").code == 0
    start, end = (json.loads(line) for line in (world.folder / "lineage.jsonl").read_text().splitlines())
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["job"]["name"].endswith(".backfill.ranking")
    assert {each["name"].rsplit("/", 1)[1] for each in start["inputs"]} == {"requests", "events"}
    (made,) = end["outputs"]
    assert (made["name"], made["outputFacets"]["outputStatistics"]["rowCount"]) == (out, 30)
    assert [column["name"] for column in made["facets"]["schema"]["fields"]] == [
        "request_id",
        "item_id",
        "hour",
        "clicks",
    ]


def test_backfill_explains_and_writes_nothing(dovetail: Any, world: World) -> None:
    ran = dovetail("backfill", "ranking", "--out", str(world.folder / "out"), "--explain")
    assert ran.code == 0
    assert "-- users (" in ran.out
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "yesterday"], "--from 'yesterday': write a day like 2024-02-29"),
        (["--to", "2024-13-01"], "--to '2024-13-01': write a day"),
        (["--events", "events"], "--events 'events': write NAME=PATH"),
        (["--columns", "click"], "has no column 'click'; did you mean clicks?"),
    ],
)
def test_misuse_of_backfill_is_named(dovetail: Any, world: World, arguments: list[str], says: str) -> None:
    ran = dovetail("backfill", "ranking", "--out", str(world.folder / "out"), *arguments)
    assert ran.code == 2
    assert says in ran.error


def test_bootstrap_refuses_then_replaces(dovetail: Any) -> None:
    refused = dovetail("bootstrap", "users")
    assert refused.code == 1
    assert "--replace builds it again" in refused.error
    done = json.loads(dovetail("bootstrap", "users", "--replace", "--json").out)
    assert done["rows"] == 60
    shown = dovetail("bootstrap", "users", "--replace")
    assert "60 rows; the stream goes on at offset" in " ".join(shown.out.split())
    unknown = dovetail("bootstrap", "user")
    assert unknown.code == 2
    assert "there is no streaming view 'user'; did you mean users?" in unknown.error


def test_check_shows_the_difference(dovetail: Any, world: World) -> None:
    assert dovetail("check", "--diff").code == 0
    assert dovetail("bootstrap", "users", "--replace").code == 0
    world.write("users", FILES["users"].replace("1 HOUR", "2 HOUR"))
    ran = dovetail("check", "--diff", "--json")
    assert ran.code == 1
    users = next(change for change in json.loads(ran.out) if change["name"] == "users")
    assert users["change"] == "changed"
    assert users["refused"]
    assert users["state"] == "stored state cannot be read; it must be built again"


def test_consistency_of_nothing_holds(dovetail: Any) -> None:
    ran = dovetail("consistency", "--day", "2024-03-18", "--engine", "local")
    assert ran.code == 0
    assert "holds" in ran.out


def test_the_witness_of_nothing_holds(dovetail: Any) -> None:
    ran = dovetail("consistency", "--witness", "3", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["witness"] == {
        "requests": 0, "compared": 0, "mismatched": 0, "unwitnessed": 0, "examples": []
    }  # fmt: skip


def test_bootstrap_takes_the_past_of_a_stream_from_files(dovetail: Any, world: World) -> None:
    declared = world.project.streams["events"].schema.arrow
    past = [{**row, "event_time": row["event_time"] - 200 * HOUR} for row in events(12)]
    pq.write_table(pa.Table.from_pylist(past, schema=declared), world.folder / "past.parquet")
    given = f"events={world.folder / 'past.parquet'}"
    assert dovetail("bootstrap", "users", "--before", "2024-01-01").code == 2
    unread = dovetail("bootstrap", "users", "--events", "clicks=past.parquet")
    assert unread.code == 2
    assert "users does not read a stream 'clicks'" in unread.error
    assert "--replace builds it again" in dovetail("bootstrap", "users", "--events", given).error  # and takes no past
    nullable = pa.schema([field.with_nullable(True) for field in declared])
    wrong = pa.Table.from_pylist([{**past[0], "user_id": None}], schema=nullable)
    pq.write_table(wrong, world.folder / "wrong.parquet")
    (world.folder / "no.parquet").write_bytes(b"no Parquet")
    for name, why in (
        ("wrong", "row 1: column user_id is missing"),
        ("no", "no readable Parquet"),
        ("gone", "no Parq"),
    ):
        path = world.folder / f"{name}.parquet"
        refused = dovetail("bootstrap", "users", "--events", f"events={path}", "--replace")
        assert (refused.code, why in refused.error) == (2, True), refused.error
    done = json.loads(dovetail("bootstrap", "users", "--events", given, "--replace", "--json").out)
    assert done["rows"] == 72
    assert done["pasts"] == {"events": {"source": given.removeprefix("events="), "partition": 16, "rows": 12}}
    shown = " ".join(dovetail("bootstrap", "users", "--replace").out.split())
    assert "72 rows; with 12 rows of the past of events from" in shown
    assert "the stream goes on at offset" in shown
    assert "of partition 16" not in shown
    assert dovetail("audit").code == 0
