"""A request that comes twice, and an item that stands twice in one: in the samples, the join and the audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dovetail.app.reports import audit_worker, consistency_of, difference, join_archived
from dovetail.app.worker import Worker, assemble, features_of
from dovetail.cli.main import app
from dovetail.cli.stored import audit
from tests.app.small_project import (
    TOML,
    Messages,
    click,
    exposure,
    project_in,
    request,
    run,
    stores_of,
    write_project,
)
from tests.seeds import some


def messages(*requests: dict[str, Any]) -> Messages:
    """These requests, an exposure of item 1 of each id, and a click on it."""
    names = sorted({one["request_id"] for one in requests})
    return {
        "behaviour": [{"user_id": "u", "event_time": "2024-01-01T12:00:01Z"}],
        "requests": list(requests),
        "exposure": [exposure(name, 1, 100) for name in names],
        "click": [click("u", 1, 110)],
    }


@contextmanager
def stopped_worker(folder: Path) -> Iterator[Worker]:
    """A worker of the project that is never started, to ask for its books."""
    worker = assemble(project_in(folder), roles=("snapshots", "labels", "samples", "archive"))
    try:
        yield worker
    finally:
        worker.stores.close()


def samples_in(folder: Path) -> list[tuple[str, int, int]]:
    """Request, item and label of each sample, in order."""
    with stopped_worker(folder) as worker:
        batch = join_archived(worker.project, worker.stores, features_of(worker.project, worker.stores))
        compared = difference(worker.stores, batch)
    assert compared.equal, compared
    return list(zip(*(batch.column(name).to_pylist() for name in ("request_id", "item_id", "label")), strict=True))


def test_every_row_of_a_repeated_request_or_item_is_a_sample_and_the_books_balance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no window is declared a request that comes twice is two, and each of their rows meets the one label."""
    folder = tmp_path / "project"
    requests = [request("a", "u", [1, 1, 2], 10), request("a", "u", [1], 10), request("b", "v", [1], 20)]
    write_project(folder, messages=messages(*requests))
    run(folder)
    assert samples_in(folder) == [("a", 1, 1)] * 3 + [("b", 1, 0)]
    with stopped_worker(folder) as worker:
        books = audit_worker(worker)
        assert books.balanced, books.unbalanced
        repeated = {a.outcome: a.rows for a in worker.accounts() if a.stage == "labels.exposure.repeated"}
        assert repeated == {"read": 2, "sampled": 2}
    assert audit.run(folder, "", None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["balanced"]


UNIQUE = TOML.replace("[request]\n", '[request]\nunique_within = "1h"\nreply_topics = ["replies"]\n')


def test_within_the_declared_window_it_is_one_request_and_the_second_is_a_duplicate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    requests = [request("a", "u", [1, 2], 10), request("a", "u", [1, 2], 12), request("a", "u", [1], 30)]
    write_project(folder, UNIQUE, messages(*requests, request("b", "v", [1], 20)))
    run(folder)
    assert samples_in(folder) == [("a", 1, 1), ("b", 1, 0)]
    with stopped_worker(folder) as worker:
        books = audit_worker(worker)
        assert books.balanced, books.unbalanced
        counted = {a.outcome: a.rows for a in worker.accounts() if a.stage == "snapshots"}
        assert counted == {"read": 4, "snapshotted": 2, "duplicate": 2}
        assert consistency_of(worker.project, worker.stores).mismatched == 0
    assert audit.run(folder, "", None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["balanced"]


def test_where_candidates_are_declared_unique_a_request_that_repeats_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    toml = TOML.replace("[request]\n", "[request]\nunique_candidates = true\n")
    write_project(folder, toml, messages(request("a", "u", [1, 2, 2, 1], 10), request("b", "v", [1, 2], 20)))
    run(folder)
    assert {row[:2] for row in samples_in(folder)} == {("b", 1)}
    shown = CliRunner().invoke(app, ["dead-letters", "-p", str(folder), "--format", "jsonl"], catch_exceptions=False)
    (letter,) = [json.loads(line) for line in shown.stdout.splitlines()]
    assert letter["reason"] == "candidate 2 (from 0) has item_id 2, as another before it; leave one of them out"
    assert audit.run(folder, "", None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["balanced"]


@pytest.mark.slow
def test_killed_after_any_step_no_request_is_its_own_duplicate(tmp_path: Path) -> None:
    """The first read again is still the first, because its id is remembered in the commit that moves its position."""
    steps: list[str] = []
    sent = messages(request("a", "u", [1, 2], 10), request("a", "u", [1, 2], 12), request("b", "v", [1], 20))
    write_project(tmp_path / "undisturbed", UNIQUE, sent)
    run(tmp_path / "undisturbed", lambda stage, step: steps.append(step) if stage == "snapshots" else None)
    assert len(steps) >= 4
    for nth in (0, *some(range(1, len(steps)), "snapshots")):
        folder = tmp_path / str(nth)
        write_project(folder, UNIQUE, sent)
        steps.clear()

        def on_step(stage: str, step: str, nth: int = nth) -> None:
            if stage == "snapshots":
                steps.append(step)
                if len(steps) == nth + 1:
                    raise ZeroDivisionError(step)

        with suppress(ZeroDivisionError):
            run(folder, on_step)
        assert steps
        run(folder)
        assert samples_in(folder) == [("a", 1, 1), ("b", 1, 0)]
        with stopped_worker(folder) as worker:
            assert audit_worker(worker).balanced


def test_a_lost_sample_of_one_of_two_equal_rows_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project"
    write_project(folder, messages=messages(request("a", "u", [1, 1], 10)))
    run(folder)
    stores = stores_of(folder)
    (file,) = stores.registry.files("samples")
    path = Path(stores.offline.path(file.path))
    stores.close()
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    assert audit.run(folder, "", None, as_json=True) == 1
    lines = json.loads(capsys.readouterr().out)["labels"]
    assert [(line["what"], line["rows"]) for line in lines if line["outcome"] == "lost"] == [("snapshots", 1)]
