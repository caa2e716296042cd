"""Events and labels that come again with their id: features, sums of labels, archive, audit and bootstrap agree."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.reports import audit_worker, consistency_of, difference, join_archived
from dovetail.app.worker import assemble, features_of
from dovetail.cli.stored import audit
from dovetail.platform.archive.writer import read_dataset
from tests.app.small_project import SQL, TOML, Messages, at, exposure, live, request, write_project
from tests.app.small_project import project_in as project_of
from tests.seeds import some

ROLES = ("features", "snapshots", "labels", "samples", "archive", "rekey")
TABLES = SQL.replace("behaviour (user_id", "behaviour (id BIGINT, item_id BIGINT NOT NULL, user_id").replace(
    "click (user_id VARCHAR", "click (id VARCHAR, amount BIGINT, request_id VARCHAR"
)
DECLARED = (
    TOML.replace('key = "user_id"\n', 'key = "user_id"\nevent_id = "id"\nunique_within = "1h"\n')
    .replace('attribute = "latest_request"\nattribute_within = "10m"\n', 'event_id = "id"\nunique_within = "1h"\n')
    .replace("[request]\n", '[rekeyed.by_item]\nstream = "behaviour"\nkey = "item_id"\n[request]\n')
    + 'values = { amount = "sum" }\n'
)
BY_ITEM = """
SELECT item_id, count(*) OVER w AS seen FROM by_item
WINDOW w AS (PARTITION BY item_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
"""
FEATURES = """
SELECT request_id, item_id, activity.events, item.seen
FROM request LEFT JOIN activity USING (user_id) LEFT JOIN item USING (item_id)
"""


def event(number: int | None, second: int, item: int = 1) -> dict[str, Any]:
    return {"id": number, "item_id": item, "user_id": "u", "event_time": at(second)}


def bought(name: str, amount: int, second: int, item: int = 1) -> dict[str, Any]:
    return {"id": name, "amount": amount, "request_id": "r", "item_id": item, "event_time": at(second)}


ONCE: Messages = {
    "behaviour": [event(1, 1), event(2, 2), event(None, 3), event(None, 3), event(3, 4, 2)],
    "requests": [request("r", "u", [1, 2], 10)],
    "exposure": [exposure("r", 1, 12), exposure("r", 2, 12)],
    "click": [bought("a", 5, 20), bought("b", 7, 30), bought("c", 1, 40, 2)],
}
AGAIN: Messages = {
    **ONCE,
    "behaviour": [
        *(event(number, second) for number, second in ((1, 1), (2, 2), (1, 1), (None, 3), (None, 3))),
        b"{",
        *(event(3, 4, 2), event(2, 2)),
    ],
    "click": [bought("a", 5, 20), *ONCE["click"], bought("a", 5, 50)],
}


def project_folder(folder: Path, messages: Messages) -> Path:
    write_project(folder, DECLARED, messages)
    (folder / "sql" / "tables.sql").write_text(TABLES)
    (folder / "sql" / "item.sql").write_text(BY_ITEM)
    (folder / "sql" / "ranking.sql").write_text(FEATURES)
    return folder


def run(folder: Path, on_step: Any = None) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await live(folder, on_step, ROLES)

    asyncio.run(limited())


def told(folder: Path) -> dict[str, Any]:
    """What a project has come to; its reports hold."""
    worker = assemble(project_of(folder), roles=ROLES)
    try:
        books = audit_worker(worker)
        assert books.balanced, books.unbalanced
        checked = consistency_of(worker.project, worker.stores)
        assert checked.mismatched == 0
        batch = join_archived(worker.project, worker.stores, features_of(worker.project, worker.stores))
        compared = difference(worker.stores, batch)
        assert compared.equal, compared
        totals = {(a.stage, a.outcome): a.rows for a in worker.accounts() if a.partition == 0}
        return {
            "amounts": dict(zip(*(batch.column(n).to_pylist() for n in ("item_id", "click_amount")), strict=True)),
            "events": read_dataset(worker.stores.registry, worker.stores.offline, "behaviour").num_rows,
            "by_item": read_dataset(worker.stores.registry, worker.stores.offline, "by_item").num_rows,
            "duplicates": {stage: n for (stage, what), n in totals.items() if what == "duplicate" and n},
        }
    finally:
        worker.stores.close()


def test_what_comes_again_is_no_event_for_anybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once, again = (project_folder(tmp_path / name, sent) for name, sent in (("once", ONCE), ("again", AGAIN)))
    found = []
    for folder in (once, again):
        run(folder)
        found.append(told(folder))
        assert audit.run(folder, "", None, as_json=True) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["balanced"]
    assert found[0]["amounts"] == found[1]["amounts"] == {1: 12, 2: 1}
    assert [each["events"] for each in found] == [5, 5]
    assert [each["by_item"] for each in found] == [5, 5]
    # The label store knows one row of a request, item and kind: the second sale counts as its duplicate, too.
    assert found[0]["duplicates"] == {"labels.click": 1}
    assert found[1]["duplicates"] == {
        "archive.behaviour": 2, "archive.click": 2, "features.activity": 2, "labels.click": 3, "rekey.by_item": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Counter[str]]:
    """What a life without a crash comes to, and how many steps each agent takes in it."""
    folder, steps = project_folder(tmp_path_factory.mktemp("undisturbed") / "project", AGAIN), Counter[str]()
    run(folder, lambda stage, _: steps.update([stage]))
    return told(folder), steps


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["features.behaviour", "labels.click", "archive.click", "rekey.by_item"])
def test_killed_after_any_step_no_event_is_its_own_repetition(
    agent: str, undisturbed: tuple[dict[str, Any], Counter[str]], tmp_path: Path
) -> None:
    expected, steps = undisturbed
    assert (expected["amounts"], expected["events"]) == ({1: 12, 2: 1}, 5)
    assert steps[agent] >= 4
    for nth in (0, *some(range(1, steps[agent]), agent)):  # with other polls, an agent may have done with fewer steps
        folder = project_folder(tmp_path / str(nth), AGAIN)
        died: list[str] = []

        def on_step(stage: str, step: str, nth: int = nth, died: list[str] = died) -> None:
            if stage == agent:
                died.append(step)
                if len(died) == nth + 1:
                    raise ZeroDivisionError(step)

        with suppress(ZeroDivisionError):
            run(folder, on_step)
        assert died
        run(folder)
        assert {**told(folder), "duplicates": None} == {**expected, "duplicates": None}
