"""Columns of labels, and labels that take back, through a whole worker: samples, their join in batch, and the audit."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from dovetail.app.reports.label_report import audit_archived_labels
from dovetail.app.reports.rejoin import difference, join_archived
from dovetail.app.storage import open_stores
from dovetail.app.worker import features_of
from dovetail.cli.main import app
from dovetail.sdk import load
from tests.app.small_project import SQL, TOML, at, exposure, request, write_project

ORDERS = """
CREATE TABLE "order" (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL,
                      amount DECIMAL(9,2), note VARCHAR);
CREATE TABLE refund (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
LABELS = """
[labels]
window = "15m"
positive = "order"
[labels.streams.exposure]
[labels.streams.order]
values = { amount = "sum" }
[labels.streams.refund]
retracts = "order"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write_project(folder, TOML[: TOML.index("[labels]")] + LABELS, messages={})
    tables = SQL[: SQL.index("CREATE TABLE click")] + ORDERS
    (folder / "sql" / "tables.sql").write_text(tables)
    return folder


def order(item: int, second: int, amount: str, name: str = "r0") -> dict[str, Any]:
    return {"request_id": name, "item_id": item, "event_time": at(second), "amount": amount}


def test_a_worker_makes_the_samples_that_the_join_makes(folder: Path) -> None:
    project = load(folder)
    with project.embedded() as flow:
        flow.rank([request("r0", "u", [1, 2, 3], 4)])
        flow.send("exposure", [exposure("r0", item, 6) for item in (1, 2, 3)])
        flow.send("order", [order(1, 10, "2.50"), order(1, 12, "1.00"), order(2, 13, "7.00"), order(2, 15, "0.25")])
        flow.send("refund", [{"request_id": "r0", "item_id": 2, "event_time": at(14)}])
        flow.until_idle()
    rows = project.samples(columns=["item_id", "label", "order_amount", "order_time"]).to_pylist()
    assert [tuple(row.values())[:3] for row in rows] == [(1, 1, Decimal("3.50")), (2, 1, Decimal("0.25")), (3, 0, None)]
    stores = open_stores(project.config)
    try:
        joined = join_archived(project, stores, features_of(project, stores))
        found = difference(stores, joined)
        assert (found.equal, found.compared) == (True, 3)
        audit, checks = audit_archived_labels(project, stores)
    finally:
        stores.close()
    assert not audit.wrong
    assert all(check.holds for check in checks)
    outcomes = {(line.what, line.outcome): line.rows for line in audit.lines if line.what == "order"}
    assert outcomes == {("order", "sampled"): 1, ("order", "retracted"): 1, ("order", "duplicate"): 2}


def test_the_audit_finds_labels_that_were_deleted_beside_the_first_of_their_key(folder: Path) -> None:
    with load(folder).embedded() as flow:
        flow.rank([request("r0", "u", [1], 4)])
        flow.send("exposure", [exposure("r0", 1, 6)])
        flow.send("order", [order(1, 10, "2.50"), order(1, 12, "1.00")])
        flow.until_idle()

    def audit() -> tuple[int, list[str]]:
        said = CliRunner().invoke(app, ["audit", "--json", "--project", str(folder)], catch_exceptions=False)
        return said.exit_code, json.loads(said.output)["unbalanced"]

    assert audit() == (0, [])
    database = sa.create_engine(f"sqlite:///{folder / 'state' / 'label_store.sqlite'}")
    with database.begin() as connection:
        connection.execute(
            sa.text('DELETE FROM label_events WHERE "offset" = (SELECT max("offset") FROM label_events)')
        )
    database.dispose()
    code, (problem,) = audit()
    assert (code, problem) == (1, "order labels kept by themselves: kept, and in the label store or let go: 2 and 1")


def test_check_says_what_reaches_no_sample(folder: Path) -> None:
    said = CliRunner().invoke(app, ["check", "--project", str(folder)], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert "labels of kind order: note reach no sample" in " ".join(said.output.split())
    assert 'values = { note = "last" }' in said.output
