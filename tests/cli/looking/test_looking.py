"""The commands that show rows: what is in the archive and in the topics, by key and condition, in three forms."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dovetail.app.broker import broker_app
from dovetail.app.flow import Flow
from dovetail.app.looking.chosen import Asked, chosen
from dovetail.app.looking.made import made_rows, of_requests
from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.platform.transports.viewing import view_topics
from tests.app.doors.news import make_log, write_project

Run = Callable[..., tuple[int, str, str]]


def work(project: Path) -> None:
    """One life of the worker, to the end of everything."""

    async def live() -> None:
        worker = assemble(load(project))
        try:
            await worker.runtime.start()
            await Flow(worker).until_idle()
            await worker.runtime.stop()
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    asyncio.run(live())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has worked a log off, in which one event and one request could not be used."""
    folder = tmp_path_factory.mktemp("news") / "project"
    write_project(folder)
    log = make_log(12)
    (folder / "bad.jsonl").write_text('{"user_id": "U1"}\n')
    for name, table in {"reads": log.reads, "requests": log.requests, **log.labels}.items():
        pq.write_table(table, folder / f"{name}.parquet")
        assert command(["send", name, str(folder / f"{name}.parquet"), "-p", str(folder)]) == 0
    with EmbeddedLog.open(folder / ".dovetail" / "log.sqlite") as there:
        bad = b'{"user_id": "U1", "item_id": 7, "event_time": "2024-03-01T08:00:00Z"}'
        there.append([Outgoing("reads", bad, b"U1", 1, headers=(("trace", b"t1"), ("dovetail-reason", b"mine")))])
        there.append([Outgoing("reads", b"\xfe\xff", b"U1", 1)])
    work(folder)
    return folder


def command(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dovetail", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture
def dovetail(world: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = command([*arguments, "-p", str(world)])
        printed = capsys.readouterr()
        return code, printed.out, " ".join(printed.err.split())

    return run


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def archived(world: Path, dataset: str) -> list[dict[str, Any]]:
    worker = assemble(load(world))
    try:
        found: list[dict[str, Any]] = read_dataset(worker.stores.registry, worker.stores.offline, dataset).to_pylist()
        return found
    finally:
        worker.stores.close()


@pytest.mark.slow
def test_samples_and_snapshots_by_key_and_condition(world: Path, dovetail: Run, tmp_path: Path) -> None:
    for dataset in ("samples", "snapshots"):
        kept = archived(world, dataset)
        code, out, _ = dovetail(dataset, "--format", "jsonl")
        assert code == 0
        assert [(row["request_id"], row["item_id"]) for row in rows(out)] == [
            (row["request_id"], row["item_id"]) for row in kept
        ]
        first = kept[0]
        _, out, _ = dovetail(dataset, "--key", first["request_id"], "--format", "jsonl")
        assert len(rows(out)) == sum(row["request_id"] == first["request_id"] for row in kept)
        pair = f"{first['request_id']}/{first['item_id']}"
        _, out, _ = dovetail(dataset, "--key", pair, "--columns", "item_id, request_id", "--format", "jsonl")
        assert rows(out) == [{"item_id": first["item_id"], "request_id": first["request_id"]}]
    _, out, _ = dovetail("samples", "--where", "label = 1", "--limit", "3", "--format", "jsonl")
    assert [row["label"] for row in rows(out)] == [1, 1, 1]
    code, out, _ = dovetail("samples", "--out", str(tmp_path / "s.parquet"))
    assert pq.read_table(tmp_path / "s.parquet").num_rows == len(archived(world, "samples"))
    _, out, _ = dovetail("samples", "-n", "2")
    assert out.splitlines()[0] == "samples: 2 rows"
    assert len(out.splitlines()) == 4


@pytest.mark.slow
def test_online_values_are_those_that_plain_sql_gives(dovetail: Run) -> None:
    events = make_log(12).reads.to_pylist()
    newest = max(row["event_time"] for row in events)
    _, out, _ = dovetail("online", "users", "--format", "jsonl")
    found = {row["user_id"]: row for row in rows(out)}
    assert set(found) == {row["user_id"] for row in events}
    for user, row in found.items():
        assert row["reads"] == sum(event["user_id"] == user for event in events)
        assert row["as_of"] == newest.isoformat() + "Z"
        assert row["exact"]
    _, out, _ = dovetail("online", "users", "--key", "nobody", "--format", "jsonl")
    assert [(row["reads"], row["last_read"]) for row in rows(out)] == [(0, None)]
    _, out, _ = dovetail("online", "items", "--where", "reads > 1", "--at", "2024-03-01T20:30:00Z")
    assert out.startswith("items: ")


@pytest.mark.slow
def test_a_dead_letter_is_sent_again_once_with_key_headers_and_bytes(world: Path, dovetail: Run) -> None:
    _, out, _ = dovetail("dead-letters", "--key", "U1", "--format", "jsonl")
    letters = rows(out)
    assert [(row["topic"], row["partition"], row["resent"]) for row in letters] == [("reads", 1, False)] * 2
    assert letters[1]["value"] == "base64:/v8="
    _, out, _ = dovetail(
        "dead-letters", "--where", "value LIKE '%item_id%'", "--columns", "reason", "--format", "jsonl"
    )
    assert len(rows(out)) == 1
    chosen = ["--where", f"letter = {letters[0]['letter']}"]
    assert dovetail("dead-letters", "--resend", *chosen)[1] == "1 letters sent again, 0 had been before\n"
    _, out, _ = dovetail("dead-letters", "--resend", "--key", "U1", "--json")
    assert json.loads(out) == {"sent": 1, "sent_before": 1, "lost": []}
    _, out, _ = dovetail("dead-letters", "--resend", "--json")
    assert json.loads(out)["sent"] == len(archived(world, "dead_letters")) - 2
    with EmbeddedLog.open(world / ".dovetail" / "log.sqlite") as log:
        poll = log.read("reads", 1, 0)
    assert poll is not None
    again = [at for at, headers in enumerate(poll.headers) if any(name == "dovetail-resent" for name, _ in headers)]
    first = poll.values.index(poll.values[again[0]])
    assert poll.values[first] == poll.values[again[0]]
    assert poll.keys[again[0]] == b"U1"
    assert poll.headers[again[0]] == [*poll.headers[first], ("dovetail-resent", str(letters[0]["letter"]).encode())]
    # What is still bad is a letter of its own, and can be sent again as such.
    work(world)
    _, out, _ = dovetail("dead-letters", "--key", "U1", "--format", "jsonl")
    assert [row["resent"] for row in rows(out)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples", "--where", "nothing = 1"], "--where 'nothing = 1': "),
        (["samples", "--columns", "nothing"], "--columns: there is no column 'nothing'"),
        (["samples", "--format", "xml"], "--format 'xml': choose from table, jsonl, parquet"),
        (["samples", "--format", "parquet"], "--format parquet and --out FILE go together"),
        (["samples", "-f", "--format", "table"], "--follow prints JSON lines"),
        (["samples", "--target", "x"], "--target x: no such target"),
        (["online", "nowhere"], "VIEW: there is no streaming view 'nowhere'"),
        (["online", "users", "--at", "soon"], "--at 'soon': write a time"),
        (["dead-letters", "--resend", "-f"], "--resend shows nothing"),
    ],
)
def test_misuse_is_explained(dovetail: Run, arguments: list[str], message: str) -> None:
    code, _, err = dovetail(*arguments)
    assert code == 2
    assert message in err


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 1])
def test_following_shows_what_comes_from_now_on(world: Path, limit: int | None) -> None:
    config = load(world).config
    name, newest = f"followed {limit}", max(row["event_time"] for row in make_log(12).reads.to_pylist())
    items = ["N1", "N2", "N3"]
    candidates = [{"item_id": item} for item in items]
    asked = {"request_id": name, "user_id": "U1", "request_time": f"{newest.isoformat()}Z", "candidates": candidates}

    async def main() -> list[dict[str, Any]]:
        stores = open_stores(config)
        shown: list[dict[str, Any]] = []
        async with view_topics(broker_app(config, "follower")) as view:
            looking, bounds = asyncio.Event(), view.bounds

            async def told(topic: str) -> Any:
                found = await bounds(topic)
                looking.set()
                return found

            view.bounds = told  # type: ignore[method-assign]

            async def follow() -> None:
                made = made_rows(stores, view, "snapshots", config.request.snapshots_topic, following=True)
                async with aclosing(chosen(made, Asked(limit=limit), of_requests)) as rows:  # type: ignore[type-var]
                    async for table in rows:
                        shown.extend(table.to_pylist())
                        if len(shown) == len(items):
                            return

            following = asyncio.create_task(follow())
            await looking.wait()
            with EmbeddedLog.open(world / ".dovetail" / "log.sqlite") as log:
                log.append([Outgoing("requests", json.dumps(asked).encode(), b"U1", 0)])
            await asyncio.to_thread(work, world)
            async with asyncio.timeout(60):
                await following
        stores.close()
        return shown

    shown = asyncio.run(main())
    assert [(row["request_id"], row["item_id"]) for row in shown] == [(name, item) for item in items[:limit]]
