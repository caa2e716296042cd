"""The real runtime on the embedded log, ended after every single step: nothing lost, nothing doubled downstream."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports import difference, join_archived
from dovetail.app.reports.archived import archived_labels
from dovetail.app.worker import features_of
from dovetail.cli.stored import audit
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.intake import IDLE_HEADER
from dovetail.platform.rows.positions import OWN_COLUMNS, SourceFilter
from dovetail.platform.rows.wire import decode_arrow
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import TOML, project_in, run, stores_of, write_project
from tests.seeds import some

JOIN = ("snapshots", "labels.exposure", "labels.click", "samples", "samples.1", "order.samples")
STEPS = ("computed", "published", "committed", "acknowledged")


class Crash(Exception):
    """What ends a life."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):  # a crash is logged by every service it takes down
        yield


def downstream(folder: Path, topic: str) -> list[dict[str, Any]]:
    """The rows of a derived topic as its readers take them, without where they stood."""
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        poll = log.read(topic, 0, 0)
    assert poll is not None
    rows = decode_arrow(poll)
    rows = rows.filter(pa.array(SourceFilter().admit(rows)))
    without = [name for name in rows.column_names if name in OWN_COLUMNS or name.startswith("_sample")]
    found: list[dict[str, Any]] = rows.drop_columns(without).to_pylist()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A life without a crash, and its steps."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    write_project(folder)
    steps: list[str] = []
    run(folder, lambda stage, step: steps.append(f"{stage} {step}"))
    return folder, steps


def test_undisturbed_it_makes_the_samples_that_duckdb_makes(undisturbed: tuple[Path, list[str]]) -> None:
    folder, steps = undisturbed
    assert {f"{stage} {step}" for stage in JOIN for step in STEPS} <= set(steps)
    made = {(s["request_id"], s["item_id"], s["emission"]): s["label"] for s in downstream(folder, "samples")}
    assert made == {
        ("first", 1, "delayed"): 1, ("first", 2, "delayed"): 1, ("second", 1, "delayed"): 1,
        ("second", 4, "delayed"): 0, ("third", 1, "delayed"): 0, ("third", 1, "correction"): 1,
        ("last", 2, "delayed"): 1,
    }  # fmt: skip
    _check(folder)


def _check(folder: Path) -> None:
    """Stream and batch agree, and the books balance."""
    project, stores = project_in(folder), stores_of(folder)
    batch = join_archived(project, stores, features_of(project, stores))
    compared = difference(stores, batch)
    stores.close()
    assert compared.equal, compared
    assert batch.num_rows == 7
    assert audit.run(folder, "", None, as_json=True) == 0


def test_partitions_that_nobody_writes_to_are_spoken_for(tmp_path: Path) -> None:
    toml = TOML.replace("[labels.streams.exposure]", "[labels.streams.exposure]\npartitions = 3")
    toml = toml.replace("[request]", "[request]\npartitions = 2")
    write_project(tmp_path / "project", toml)
    run(tmp_path / "project")
    _check(tmp_path / "project")
    with EmbeddedLog.open(tmp_path / "project" / "state" / "log.sqlite") as log:
        for topic, partition in (("exposure", 1), ("exposure", 2), ("requests", 1)):
            poll = log.read(topic, partition, 0)
            assert poll is not None
            assert all(IDLE_HEADER in dict(headers) for headers in poll.headers)


@pytest.mark.slow
def test_ended_after_any_step_it_goes_on_as_if_it_had_not(
    undisturbed: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, steps = undisturbed
    expected = {topic: downstream(whole, topic) for topic in ("snapshots", "samples", "samples-ordered")}
    died: set[str] = set()
    # Stages run side by side, so a step is named by its stage and how often that has come to it, not by its number.
    for at, times in sorted(Counter(step for step in steps if step.split()[0] in JOIN).items()):
        for nth in some(range(times), at):
            folder = tmp_path / "project"
            write_project(folder)
            seen = count()

            def on_step(stage: str, step: str, at: str = at, nth: int = nth, seen: count[int] = seen) -> None:
                if f"{stage} {step}" == at and next(seen) == nth:
                    died.add(at)
                    raise Crash

            with suppress(Crash):  # with other polls, a stage may have done with fewer steps
                run(folder, on_step)
            run(folder)
            for topic, rows in expected.items():
                assert downstream(folder, topic) == rows, (at, nth, topic)
            _check(folder)
            capsys.readouterr()
            shutil.rmtree(folder)
    assert died == {f"{stage} {step}" for stage in JOIN for step in STEPS}


def test_the_audit_names_dead_letters_by_position_and_unattributed_labels_by_user(
    undisturbed: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = undisturbed
    assert audit.run(folder, "", None, as_json=True, outcome="dead_letter") == 0
    said = json.loads(capsys.readouterr().out)
    named = {(line["what"], line["outcome"]): line["keys"] for line in said["labels"]}
    assert named["click", "dead_letter"] == ["click[0]@4"]
    assert named["exposure", "dead_letter"] == ["exposure[0]@6"]
    assert named["requests", "dead_letter"] == ["requests[0]@2"]
    assert named["click", "unattributed"] == ["u/2", "u/9"]
    assert {(row["what"], row["offset"]) for row in said["listed"]} == {("click", 4), ("exposure", 6), ("requests", 2)}
    assert all(line["day"] == "2024-01-01" for line in said["labels"])
    assert audit.run(folder, "", None, as_json=False, outcome="unattributed") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "click 2024-01-01, partition 0: 8 in = 1 corrected + 1 dead_letter + 4 sampled + 2 unattributed" in shown
    assert "outcome=unattributed request_id=u item_id=9 offset=3" in shown
    with pytest.raises(ConfigError, match="--list gone: no row ended as that; there are: corrected, dead_letter"):
        audit.run(folder, "", None, as_json=True, outcome="gone")


@pytest.mark.parametrize(
    ("database", "change", "problem"),
    [
        ("label_store", "UPDATE accounts SET rows = rows + 1 WHERE outcome = 'read' AND stage = 'labels.click'",
         "labels.click read click[0]: +1 rows not accounted for"),
        ("label_store", "UPDATE accounts SET rows = rows - 1 WHERE outcome = 'inserted' AND stage = 'labels.exposure'",
         "exposure labels: inserted, and rows in the label store: 5 and 6"),
        ("label_store", "DELETE FROM labels WHERE kind = 'click'",
         "click labels: inserted, and rows in the label store"),
        ("registry", "DELETE FROM data_files WHERE dataset = 'samples'", "lost, such as"),
        ("registry", "DELETE FROM data_files WHERE dataset = 'dead_letters'",
         "click labels of partition 0: read, and outcomes: 8 and 7"),
    ],
)  # fmt: skip
def test_stores_that_were_tampered_with_do_not_balance(
    database: str, change: str, problem: str, undisturbed: tuple[Path, list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "project"
    shutil.copytree(undisturbed[0], folder)
    engine = sa.create_engine(f"sqlite:///{folder / 'state' / database}.sqlite")
    with engine.begin() as connection:
        assert connection.execute(sa.text(change)).rowcount > 0
    engine.dispose()
    assert audit.run(folder, "", None, as_json=True) == 1
    assert any(problem in said for said in json.loads(capsys.readouterr().out)["unbalanced"])


def test_archived_clicks_have_the_requests_they_belong_to(undisturbed: tuple[Path, list[str]]) -> None:
    folder, _ = undisturbed
    stores = stores_of(folder)
    project, meanings = with_meanings(project_in(folder), stores)
    clicks = archived_labels(project, stores, meanings)["click"].to_pylist()
    assert [c["request_id"] for c in clicks if c["user_id"]] == [
        "first", "second", "first", None, None, "last", "third",
    ]  # fmt: skip
    assert read_dataset(stores.registry, stores.offline, "requests.announced").num_rows == 1
    stores.close()
