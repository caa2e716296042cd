"""Settings of labels that change between two lives: each sample is of those its request was answered under."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.cli.main import app
from dovetail.platform.errors import DefinitionError
from dovetail.sdk import load
from tests.app.small_project import SQL, TOML, at, exposure, request, write_project

TABLES = """
CREATE TABLE "order" (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL,
                      amount DECIMAL(9,2), note VARCHAR);
CREATE TABLE refund (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
BEFORE = """
[labels]
window = "10m"
positive = "order"
[labels.streams.exposure]
[labels.streams.order]
values = { amount = "sum" }
[labels.streams.refund]
"""
AFTER = """
[labels]
window = "20m"
positive = "order"
max_early = "1m"
[labels.streams.exposure]
[labels.streams.order]
values = { amount = "max", note = "last" }
[labels.streams.refund]
retracts = "order"
"""


def order(name: str, item: int, second: int, amount: str, note: str | None = None) -> dict[str, Any]:
    return {"request_id": name, "item_id": item, "event_time": at(second), "amount": amount, "note": note}


def declare(folder: Path, labels: str) -> None:
    (folder / "dovetail.toml").write_text(TOML[: TOML.index("[labels]")] + labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write_project(folder, TOML[: TOML.index("[labels]")] + BEFORE, messages={})
    (folder / "sql" / "tables.sql").write_text(SQL[: SQL.index("CREATE TABLE click")] + TABLES)
    return folder


def told(folder: Path, *command: str) -> Any:
    result = CliRunner().invoke(app, [*command, "--project", str(folder)], catch_exceptions=False)
    return result.exit_code, result.output


def test_each_sample_is_of_the_settings_its_request_was_answered_under(folder: Path) -> None:
    with load(folder).embedded() as flow:
        flow.rank([request("r0", "u", [1, 2], 4)])
    declare(folder, AFTER)
    code, said = told(folder, "check", "--diff", "--json")
    (changed,) = [one for one in json.loads(said) if one["name"] == "labels"]
    assert (code, changed["change"], changed["refused"]) == (0, "changed", False)
    assert changed["state"] == "counts for requests that are answered from now on"
    assert '[labels] window: "10m" -> "20m"' in changed["differences"]
    assert '[labels.streams.refund] retracts: null -> "order"' in changed["differences"]
    project = load(folder)
    with project.embedded() as flow:
        flow.rank([request("r1", "u", [1, 2], 100)])
        flow.send("exposure", [exposure(name, item, 110) for name in ("r0", "r1") for item in (1, 2)])
        flow.send("order", [order("r0", 1, 120, "2.50"), order("r0", 1, 130, "1.00"), order("r0", 2, 900, "9.00")])
        flow.send("order", [order("r1", 1, 120, "2.50", "a"), order("r1", 1, 130, "1.00", "b")])
        flow.send("order", [order("r1", 2, 50, "4.00"), order("r1", 2, 1_000, "7.00")])
        flow.send("refund", [{"request_id": name, "item_id": 1, "event_time": at(125)} for name in ("r0", "r1")])
        flow.until_idle()
    columns = ["request_id", "item_id", "label", "order_amount", "order_note", "order_time"]
    rows = project.samples(columns=columns).to_pylist()
    assert sorted(tuple(row.values())[:5] for row in rows) == [
        ("r0", 1, 1, Decimal("3.50"), None),  # nothing is taken back, and all of ten minutes
        ("r0", 2, 0, None, None),
        ("r1", 1, 1, Decimal("1.00"), "b"),  # the first one was taken back
        ("r1", 2, 1, Decimal("7.00"), None),  # twenty minutes
    ]
    assert told(folder, "join", "--compare")[0] == 0
    code, said = told(folder, "audit", "--json")
    assert (code, json.loads(said)["unbalanced"]) == (0, [])


def test_how_labels_are_read_may_not_change_once_some_were(folder: Path) -> None:
    with load(folder).embedded() as flow:
        flow.rank([request("r0", "u", [1], 4)])
        flow.send("exposure", [exposure("r0", 1, 10)])
        flow.until_idle()
    declare(folder, BEFORE.replace("[labels]\n", '[labels]\nallowed_lateness = "1h"\n'))
    with pytest.raises(DefinitionError) as refused:
        assemble(load(folder))
    assert "[labels.exposure] is read otherwise than" in str(refused.value)
    assert "[labels] allowed_lateness: 0us -> 1h" in str(refused.value)
    assert "set [labels] allowed_lateness to 0us" in str(refused.value)
    assert told(folder, "check", "--diff")[0] == 1
    declare(folder, BEFORE)
    assert told(folder, "check", "--diff")[0] == 0
    assemble(load(folder)).stores.close()


def test_a_registry_of_the_version_before_begins_with_the_settings_of_now(folder: Path) -> None:
    project = load(folder)
    open_stores(project.config).close()
    database = sa.create_engine(f"sqlite:///{folder / 'state' / 'registry.sqlite'}")
    with database.begin() as connection:
        for table in ("label_settings", "label_logs"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
    database.dispose()
    assemble(project).stores.close()
    assert {one["change"] for one in json.loads(told(folder, "check", "--diff", "--json")[1])} == {"same"}
