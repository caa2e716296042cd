"""A call that is sent again with its key is answered as it was, and its rows are one event each, whoever died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from dovetail.api.idempotence import IDEMPOTENCY_KEY
from dovetail.platform.errors import StoreError
from dovetail.platform.stores.registry.answered_calls import AnsweredCalls
from tests.api.running import Running, on_a_worker
from tests.app.small_project import TOML, at, exposure, request, write_project

EVENTS = [{"user_id": "u", "event_time": at(second)} for second in range(3)]
DECLARED = TOML.replace('key = "user_id"\n', 'key = "user_id"\nunique_within = "1h"\n').replace(
    "[labels.streams.exposure]\n", '[labels.streams.exposure]\nunique_within = "1h"\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_project(tmp_path / "project", f"{DECLARED}\n[api]\nport = 0\n", messages={})
    return tmp_path / "project"


async def send(running: Running, rows: Any, key: str, path: str = "/v1/events/behaviour") -> httpx.Response:
    return await running.post(path, rows, headers={IDEMPOTENCY_KEY: key})


async def counted(running: Running) -> int:
    """How many events a request now sees of the user."""
    await running.applied("behaviour")
    answer = await running.post("/v1/features", request("r", "u", [1], 10))
    [value] = answer.json()["features"]["events"]
    return int(value)


def test_the_second_call_is_answered_like_the_first_and_changes_nothing(folder: Path) -> None:
    async def work(running: Running) -> tuple[list[httpx.Response], int]:
        answers = [await send(running, EVENTS, "one"), await send(running, EVENTS, "one")]
        answers.append(await send(running, EVENTS[:1], "two"))
        return answers, await counted(running)

    (first, second, third), events = on_a_worker(folder, work)
    assert [first.status_code, second.status_code, third.status_code] == [200] * 3
    assert second.json() == first.json()
    assert (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]) == (None, "true")
    assert third.json()["positions"][0]["offset"] == 3
    assert events == 4


def test_an_answer_that_was_lost_with_its_process_costs_no_event(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are in the log, and nobody knows that they were acknowledged; sent again they are known by their ids."""

    def dies(*_: Any) -> None:
        raise ZeroDivisionError

    async def dying(running: Running) -> None:
        with pytest.raises(ZeroDivisionError):
            await send(running, EVENTS, "one")

    async def again(running: Running) -> tuple[httpx.Response, httpx.Response, int, dict[str, int]]:
        answers = await send(running, EVENTS, "one"), await send(running, EVENTS, "one")
        events = await counted(running)
        books = {a.outcome: a.rows for a in running.worker.accounts() if a.stage == "features.activity"}
        return *answers, events, books

    with monkeypatch.context() as dead:
        dead.setattr(AnsweredCalls, "put", dies)
        on_a_worker(folder, dying)
    first, second, events, books = on_a_worker(folder, again)
    assert first.json()["accepted"] == 3
    assert [place["offset"] for place in first.json()["positions"]] == [3, 4, 5]
    assert second.json() == first.json()
    assert events == 3
    assert {what: books[what] for what in ("read", "applied", "duplicate")} == {"read": 6, "applied": 3, "duplicate": 3}


def test_a_key_that_cannot_be_kept_is_refused(folder: Path) -> None:
    async def work(running: Running) -> list[httpx.Response]:
        await send(running, EVENTS, "one")
        return [
            await send(running, EVENTS[:1], "one"),
            await running.post("/v1/events/behaviour?atomic=true", EVENTS, headers={IDEMPOTENCY_KEY: "one"}),
            await send(running, EVENTS, "k" * 256),
            await send(running, EVENTS, ""),
            await send(running, [{"user_id": "u", "item_id": 1, "event_time": at(1)}], "one", "/v1/labels/click"),
            await send(running, request("r", "u", [1], 10), "one", "/v1/rank"),
            await running.client.post(
                "/v1/events/behaviour", json=EVENTS, headers=[(IDEMPOTENCY_KEY, "one"), (IDEMPOTENCY_KEY, "two")]
            ),
        ]

    answers = on_a_worker(folder, work)
    assert [answer.status_code for answer in answers] == [422, 422, 400, 400, 400, 400, 400]
    said = [answer.json()["error"] for answer in answers]
    assert "used for a call of other rows" in said[0]
    assert "1 to 255 visible characters" in said[2]
    assert '[labels.streams.click] unique_within = "1d"' in said[4]
    assert "a request is known by its request_id" in said[5]
    assert "the call has 2; give it one" in said[6]


def test_a_call_of_which_nothing_was_taken_may_be_mended_under_its_key(folder: Path) -> None:
    async def work(running: Running) -> list[httpx.Response]:
        path = "/v1/labels/exposure"
        return [await send(running, rows, "k", path) for rows in ([{"item_id": 1}], [exposure("r", 1, 2)])]

    refused, taken = on_a_worker(folder, work)
    assert (refused.status_code, taken.status_code) == (422, 200)


def test_a_store_that_does_not_answer_is_said_and_may_be_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> None:
        raise StoreError("postgresql://localhost: the database failed")

    async def work(running: Running) -> list[httpx.Response]:
        with monkeypatch.context() as broken:
            broken.setattr(AnsweredCalls, "of", down)
            failed = await send(running, EVENTS, "one")
        return [failed, await send(running, EVENTS, "one")]

    failed, taken = on_a_worker(folder, work)
    assert (failed.status_code, failed.headers["retry-after"], taken.status_code) == (503, "1", 200)
    assert failed.json() == {"error": "postgresql://localhost: the database failed"}


def test_the_page_says_which_calls_take_a_key(folder: Path) -> None:
    async def work(running: Running) -> Any:
        return (await running.client.get("/v1/openapi.json")).json()

    paths = on_a_worker(folder, work)["paths"]
    taking = {
        path
        for path, calls in paths.items()
        for call in calls.values()
        if IDEMPOTENCY_KEY in [each["name"] for each in call.get("parameters", ())]
    }
    assert taking == {"/v1/events/behaviour", "/v1/labels/exposure"}
