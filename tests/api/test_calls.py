"""The calls of the API on a worker: what goes in is in the log, what comes out is what was recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from dovetail.api.bodies import ARROW
from dovetail.api.tokens import Scope
from dovetail.platform.rows import wire
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.api.running import Running, on_a_worker, project_folder
from tests.app.small_project import at, exposure, request

EVENTS = [{"user_id": "u", "event_time": at(second)} for second in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project_folder(tmp_path / "project")


def logged(folder: Path, topic: str) -> list[bytes | None]:
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        values: list[bytes | None] = []
        for number in log.end_offsets(topic):
            poll = log.read(topic, number, 0)
            values += [] if poll is None else list(poll.values)
    return values


def test_rows_are_in_the_log_when_they_are_acknowledged(folder: Path) -> None:
    async def work(running: Running) -> list[httpx.Response]:
        lines = b"\n".join(json.dumps(event).encode() for event in EVENTS)
        arrow = wire.encode(pa.Table.from_pylist(EVENTS))
        return [
            await running.post("/v1/events/behaviour", EVENTS[0]),
            await running.post("/v1/events/behaviour", EVENTS),
            await running.post("/v1/events/behaviour", content=lines, headers={"content-type": "application/x-ndjson"}),
            await running.post("/v1/events/behaviour", content=arrow, headers={"content-type": ARROW}),
            await running.post("/v1/labels/exposure", [exposure("r", 1, 2)]),
        ]

    answers = on_a_worker(folder, work)
    assert [answer.status_code for answer in answers] == [200] * 5
    told = [answer.json() for answer in answers]
    assert [each["accepted"] for each in told] == [1, 5, 5, 5, 1]
    places = [place["offset"] for each in told[:4] for place in each["positions"]]
    assert places == list(range(16))
    assert [place["row"] for place in told[1]["positions"]] == [0, 1, 2, 3, 4]
    assert len(logged(folder, "behaviour")) == 16
    assert [json.loads(value or b"") for value in logged(folder, "exposure")] == [exposure("r", 1, 2)]


def test_a_call_hands_its_trace_on_to_what_it_sends(folder: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def work(running: Running) -> list[int]:
        headers = {"traceparent": trace}
        answers = [
            await running.post("/v1/events/behaviour", EVENTS[0], headers=headers),
            await running.post("/v1/rank", request("r", "u", [1], 10), headers=headers),
            await running.post("/v1/events/behaviour", EVENTS[1]),
        ]
        return [answer.status_code for answer in answers]

    assert on_a_worker(folder, work) == [200] * 3
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        polls = [log.read(topic, n, 0) for topic in ("behaviour", "requests") for n in log.end_offsets(topic)]
    found = [dict(headers).get("traceparent") for poll in polls if poll is not None for headers in poll.headers]
    assert sorted(found, key=str) == [None, trace.encode(), trace.encode()]


def test_bad_rows_are_told_and_good_ones_go_in_unless_it_is_all_or_none(folder: Path) -> None:
    mixed = [EVENTS[0], {"user_id": 1}, {"event_time": at(1)}, EVENTS[1], [1], {"user_id": "u", "event_time": "soon"}]

    async def work(running: Running) -> list[httpx.Response]:
        return [
            await running.post("/v1/events/behaviour", mixed),
            await running.post("/v1/events/behaviour?atomic=true", mixed),
            await running.post("/v1/events/behaviour?atomic=true", EVENTS[:1]),
            await running.post("/v1/events/behaviour", mixed[1:3]),
            await running.post("/v1/events/behaviour?atomic=perhaps", EVENTS[:1]),
            await running.post("/v1/events/behavior", EVENTS[:1]),
        ]

    answers = on_a_worker(folder, work)
    assert [answer.status_code for answer in answers] == [200, 422, 200, 422, 400, 404]
    first, atomic, whole, none = (answer.json() for answer in answers[:4])
    assert [place["row"] for place in first["positions"]] == [0, 3]
    assert [refused["row"] for refused in first["rejected"]] == [1, 2, 4, 5]
    assert "event_time is missing" in first["rejected"][0]["reason"]
    assert (atomic["accepted"], len(atomic["rejected"]), whole["accepted"]) == (0, 4, 1)
    assert (none["accepted"], len(none["rejected"])) == (0, 2)
    assert "say true or false" in answers[4].json()["error"]
    assert len(logged(folder, "behaviour")) == 3


def test_a_rank_is_what_its_snapshot_says(folder: Path) -> None:
    async def work(running: Running) -> list[Any]:
        await running.post("/v1/events/behaviour", EVENTS)
        await running.applied("behaviour")
        asked = [request(f"r{number}", "u", [3, 1, 2], number) for number in range(10)]
        plain = await running.post("/v1/rank", asked[0])
        features = await running.post("/v1/rank?features=true", asked[1])
        arrow = await running.post("/v1/rank", asked[2], headers={"accept": ARROW})
        several = await running.post("/v1/rank", asked[3:])
        looked = await running.post("/v1/features", request("looked", "u", [7], 2))
        table = await running.post("/v1/features", request("looked", "u", [7], 2), headers={"accept": ARROW})
        return [plain.json(), features.json(), arrow.content, several.json(), looked.json(), table.content]

    plain, features, arrow, several, looked, table = on_a_worker(folder, work)
    assert plain == {"request_id": "r0", "model_version": 0, "items": [3, 1, 2], "scores": [0.5] * 3}
    snapshots = [rows for value in logged(folder, "snapshots") if (rows := wire.rows_of(value or b"")) is not None]
    kept = {table.column("request_id")[0].as_py(): table for each in snapshots for table in _by_request(each)}
    assert sorted(kept) == [f"r{number}" for number in range(10)]  # and none of what was looked up
    assert features["features"] == {"events": [2, 2, 2]} == {"events": kept["r1"].column("events").to_pylist()}
    assert features["seen"] == {"activity": kept["r1"].column("_seen_activity")[0].as_py()} == {"activity": [5]}
    assert features["items"] == [3, 1, 2]
    recorded = wire.rows_of(arrow)
    assert recorded is not None
    assert recorded.equals(kept["r2"])
    assert [answer["request_id"] for answer in several["answers"]] == [f"r{number}" for number in range(3, 10)]
    assert looked == {
        "request_id": ["looked"],
        "item_id": [7],
        "features": {"events": [3]},
        "seen": {"activity": [5]},
    }
    told = wire.rows_of(table)
    assert told is not None
    assert told.column("events").to_pylist() == [3]


def test_bare_keys_have_what_a_request_would_be_served(folder: Path) -> None:
    async def work(running: Running) -> list[Any]:
        await running.post("/v1/events/behaviour", EVENTS)
        await running.applied("behaviour")
        path = "/v1/features/activity"
        keys = [{"user_id": "u"}, {"user_id": "nobody"}, {"user_id": "u", "as_of": at(2)}]
        served = [
            (await running.post("/v1/features", request("r", "u", [1], second))).json()["features"]["events"][0]
            for second in (4, 2)
        ]
        told = (await running.post(path, keys)).json()
        table = wire.rows_of((await running.post(path, keys, headers={"accept": ARROW})).content)
        past = (await running.post(path, {"user_id": "u", "as_of": "2023-12-31T00:00:00"})).json()
        refused = [await running.post(path, [{"user": "u"}, keys[0]]), await running.post(f"{path}s", keys)]
        return [served, told, table, past, refused]

    served, told, table, past, (bad, unknown) = on_a_worker(folder, work)
    newest, then = "2024-01-01T12:00:04", "2024-01-01T12:00:02"
    assert told == {
        "keys": {"user_id": ["u", "nobody", "u"]},
        "as_of": [newest, newest, then],
        "exact": [True] * 3,
        "features": {"events": [served[0], 0, served[1]]},
    }
    assert served == [5, 3]
    assert table.to_pydict()["events"] == told["features"]["events"]
    assert table.column_names == ["user_id", "as_of", "events", "exact"]
    assert (past["exact"], past["features"]) == ([False], {"events": [None]})
    assert [bad.status_code, unknown.status_code] == [422, 404]
    assert [row["row"] for row in bad.json()["rejected"]] == [0]
    assert "column user_id is missing or NULL" in bad.json()["error"]
    assert logged(folder, "snapshots") == []


def _by_request(rows: pa.Table) -> list[pa.Table]:
    names = rows.column("request_id").to_pylist()
    starts = [row for row, name in enumerate(names) if row == 0 or name != names[row - 1]]
    return [rows.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


def test_a_refused_request_is_answered_with_the_reason(folder: Path) -> None:
    async def work(running: Running) -> list[httpx.Response]:
        await running.post("/v1/events/behaviour", {"user_id": "u", "event_time": "2024-01-03T00:00:00"})
        await running.applied("behaviour")
        old = request("old", "u", [1], 2)
        good = {**request("good", "u", [1], 2), "request_time": "2024-01-03T00:00:00"}
        return [
            await running.post("/v1/rank", {"request_id": "r"}),
            await running.post("/v1/rank", request("none", "u", [], 1)),
            await running.post("/v1/rank", old),
            await running.post("/v1/rank", [good, old]),
            await running.post("/v1/rank", [old], headers={"accept": ARROW}),
            await running.post("/v1/features", old),
            await running.post("/v1/features", request("none", "u", [], 1)),
        ]

    answers = on_a_worker(folder, work)
    assert [answer.status_code for answer in answers] == [422, 422, 422, 200, 422, 422, 422]
    errors = [answer.json().get("error", "") for answer in answers]
    assert "NOT NULL" in errors[0]
    assert errors[1] == errors[6] == "no candidates"
    assert errors[2] == errors[4] == errors[5]
    assert "older than the feature state can answer exactly" in errors[2]
    good, old = answers[3].json()["answers"]
    assert (good["request_id"], "error" in old) == ("good", True)
    letters = logged(folder, "small-dead-letters")
    assert len(letters) == 4  # those of the agent: what the API refuses itself is not sent


def test_a_request_that_nobody_answers_is_told_so(folder: Path) -> None:
    async def work(running: Running) -> httpx.Response:
        return await running.post("/v1/rank", request("r", "u", [1], 1))

    write = (folder / "dovetail.toml").read_text()
    (folder / "dovetail.toml").write_text(write + 'timeout = "50ms"\n')
    answer = on_a_worker(folder, work, roles=("features",))
    assert answer.status_code == 504
    assert "no answer within 0.05 s ([api] timeout)" in answer.json()["error"]


def test_tokens_grant_what_they_say(folder: Path) -> None:
    tokens = {"sender": frozenset({Scope.send}), "ranker": frozenset({Scope.rank}), "reader": frozenset({Scope.read})}
    calls = {
        "/v1/events/behaviour": EVENTS[0],
        "/v1/labels/exposure": exposure("r", 1, 1),
        "/v1/rank": request("r", "u", [1], 1),
        "/v1/features": request("r", "u", [1], 1),
        "/v1/features/activity": {"user_id": "u"},
        "/v1/definitions": None,
        "/v1/models": None,
        "/v1/freshness": None,
        "/metrics": None,
        "/healthz": None,
        "/readyz": None,
    }

    async def work(running: Running) -> dict[str, list[int]]:
        statuses = {}
        for token in ("", "Bearer sender", "Bearer ranker", "bearer reader", "Basic sender", "Bearer unknown"):
            headers = {"authorization": token} if token else {}
            statuses[token] = [
                (await running.client.get(path, headers=headers)).status_code
                if body is None
                else (await running.post(path, body, headers=headers)).status_code
                for path, body in calls.items()
            ]
        challenge = (await running.client.get("/v1/models")).headers["www-authenticate"]
        assert challenge == "Bearer"
        return statuses

    assert on_a_worker(folder, work, tokens) == {
        "": [401] * 9 + [200] * 2,
        "Bearer sender": [200] * 2 + [403] * 7 + [200] * 2,
        "Bearer ranker": [403] * 2 + [200] * 3 + [403] * 4 + [200] * 2,
        "bearer reader": [403] * 5 + [200] * 6,
        "Basic sender": [401] * 9 + [200] * 2,
        "Bearer unknown": [401] * 9 + [200] * 2,
    }


def test_bodies_and_calls_are_bounded(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project", "max_body_bytes = 2000\nmax_rows = 3\nmax_waiting = 2")

    async def slow(begun: asyncio.Event) -> Any:
        yield b"["
        begun.set()
        await gate.wait()
        yield json.dumps(EVENTS[0]).encode() + b"]"

    gate, reading = asyncio.Event(), [asyncio.Event(), asyncio.Event()]

    async def work(running: Running) -> list[httpx.Response]:
        large = await running.post("/v1/events/behaviour", [{**EVENTS[0], "more": "x" * 2_000}])
        many = await running.post("/v1/events/behaviour", EVENTS)
        kind = {"content-type": "application/json"}
        waiting = [
            asyncio.create_task(running.post("/v1/events/behaviour", content=slow(begun), headers=kind))
            for begun in reading
        ]
        await asyncio.gather(*(begun.wait() for begun in reading))
        busy = await running.post("/v1/events/behaviour", EVENTS[0])
        gate.set()
        return [
            large,
            many,
            busy,
            *await asyncio.gather(*waiting),
            await running.post("/v1/events/behaviour", EVENTS[0]),
        ]

    large, many, busy, *rest = on_a_worker(folder, work)
    assert [large.status_code, many.status_code, busy.status_code] == [413, 413, 429]
    assert busy.headers["retry-after"] == "1"
    assert [answer.status_code for answer in rest] == [200, 200, 200]


def test_what_a_call_may_not_say_is_refused(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project", "max_candidates = 3")
    kind = {"content-type": "application/json"}

    async def work(running: Running) -> list[httpx.Response]:
        two = [request(name, "u", [1, 2], 1) for name in "ab"]
        return [
            await running.post("/v1/rank", two),
            await running.post("/v1/features", two),
            await running.post("/v1/rank", two[0]),
            await running.post("/v1/rank?feature=true", two[0]),
            await running.post("/v1/rank", content=b"{}", headers=kind | {"content-encoding": "gzip"}),
            await running.post("/v1/rank", content=b"{}", headers={"content-type": "application/json; charset=utf-16"}),
            await running.post("/v1/rank", content=b"{}", headers=kind | {"content-length": "99999999999999999999"}),
            await running.post("/v1/rank/", two[0]),
            await running.client.get("/v1/rank"),
            await running.client.get("/v1/docs"),
        ]

    answers = on_a_worker(folder, work)
    assert [answer.status_code for answer in answers] == [413, 413, 200, 400, 415, 415, 413, 404, 405, 200]
    errors = [answer.json()["error"] for answer in answers[:2] + answers[3:9]]
    for error, part in zip(
        errors,
        ["4 candidates, 3 are ranked", "4 candidates", "no parameter 'feature'", "'gzip' is not taken", "'utf-16'",
         "larger than", "/v1/openapi.json lists", "GET /v1/rank: Method Not Allowed"],
        strict=True,
    ):  # fmt: skip
        assert part in error


def test_a_project_tells_about_itself(folder: Path) -> None:
    async def work(running: Running) -> list[Any]:
        await running.post("/v1/events/behaviour", EVENTS)
        await running.post("/v1/rank", request("r", "u", [1], 1))
        await running.applied("behaviour")
        await running.applied("requests")
        paths = ("/v1/definitions", "/v1/models", "/v1/freshness", "/v1/openapi.json", "/healthz", "/readyz")
        told = [(await running.client.get(path)).json() for path in paths]
        return [*told, (await running.client.get("/metrics")).text]

    definitions, models, freshness, openapi, alive, ready, metrics = on_a_worker(folder, work)
    assert {(each["name"], each["kind"]) for each in definitions} == {
        ("activity", "streaming"),
        ("ranking", "feature set"),
    }
    assert models == {"model": None, "versions": []}
    assert freshness["views"]["activity"] == {"newest_event": "2024-01-01T12:00:04", "positions": {"0": 5}}
    assert freshness["requests"]["watermark"] is not None
    row = openapi["paths"]["/v1/events/behaviour"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert row["oneOf"][0]["required"] == ["user_id", "event_time"]
    assert row["oneOf"][0]["properties"]["event_time"] == {"type": "string", "format": "date-time"}
    assert (alive["status"], ready["ready"]) == ("ok", True)
    assert 'dovetail_api_calls_total{route="/v1/rank",status="200"} 1.0' in metrics
