"""A news log replayed: every request is answered, as batch would, and a replay that was killed ends the same."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.reports import audit_worker, consistency_of, difference, join_archived
from dovetail.app.worker import assemble, features_of
from dovetail.cli import main
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests import forked
from tests.app.doors.news import TOML, NewsLog, make_log, write_project
from tests.seeds import SEEDS

MORTAL = Path(__file__).parent / "mortal_replay.py"
Run = Callable[..., tuple[int, str, str]]


def write_log(folder: Path, log: NewsLog) -> list[str]:
    """The log's files, and the command that replays them."""
    for name, table in {"reads": log.reads, "requests": log.requests, **log.labels}.items():
        pq.write_table(table, folder / f"{name}.parquet")
    inputs = ["--stream", f"reads={folder / 'reads.parquet'}", "--requests", str(folder / "requests.parquet")]
    return ["replay", *inputs, *(a for kind in log.labels for a in ("--labels", f"{kind}={folder / kind}.parquet"))]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dovetail", *arguments, "-p", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, " ".join(printed.err.split())

    return command


def verdicts(folder: Path, log: NewsLog) -> tuple[int, pa.Table]:
    """Everything holds, and each request was answered; returns how many values late data explains, and the samples."""
    project = load(folder)
    worker = assemble(project)
    stores = worker.stores
    try:
        assert audit_worker(worker).balanced
        found = consistency_of(project, stores)
        assert found.mismatched == 0
        assert found.compared > 0
        snapshots = read_dataset(stores.registry, stores.offline, "snapshots")
        assert set(snapshots.column("request_id").to_pylist()) == set(log.requests.column("request_id").to_pylist())
        compared = difference(
            stores, join_archived(project, stores, features_of(project, stores), target=""), target=""
        )
        assert compared.equal
        samples = read_dataset(stores.registry, stores.offline, "samples")
        assert worker.trainer is not None
        if not found.late:
            names = ["request_id", "item_id", "user_reads", "last_read", "item_reads", "hour"]
            order = [("request_id", "ascending"), ("item_id", "ascending")]
            asked = log.requests.drop_columns(["arrival_time"] * ("arrival_time" in log.requests.column_names))
            batch = project.evaluate(None, asked.cast(project.request.arrow), {"reads": log.reads})
            same = [table.select(names).sort_by(order).combine_chunks() for table in (batch, snapshots)]
            assert same[0].equals(same[1].cast(same[0].schema))
        return found.late, samples
    finally:
        stores.close()


@pytest.mark.slow
def test_a_log_without_arrival_times_is_answered_as_batch_would(tmp_path: Path, run: Run) -> None:
    write_project(tmp_path)
    log = make_log(150)
    command = write_log(tmp_path, log)
    code, out, _ = run(tmp_path, *command, "--until-idle")
    assert code == 0
    assert "no dead letters" in out
    assert out.count("have no arrival_time, and were sent as if they had arrived at their event time") == 4
    late, samples = verdicts(tmp_path, log)
    assert late == 0
    assert samples.num_rows == log.labels["shown"].num_rows
    assert sum(samples.column("label").to_pylist()) == log.labels["click"].num_rows
    # Once more: it is over, and sends nothing.
    code, out, _ = run(tmp_path, *command, "--json")
    assert (code, json.loads(out)["finished_before"]) == (0, True)
    assert verdicts(tmp_path, log)[1].equals(samples)


@pytest.mark.slow
def test_rows_that_came_late_are_late_and_said_to_be(tmp_path: Path, run: Run) -> None:
    write_project(tmp_path)
    log = make_log(150, arrival=True)
    code, out, _ = run(tmp_path, *write_log(tmp_path, log), "--until-idle", "--json")
    said = json.loads(out)
    assert (code, said["dead_letters"]) == (0, 0)
    assert said["inputs"]["reads"]["out_of_order"] > 0
    assert said["inputs"]["reads"]["without_arrival"] == 0
    late, _ = verdicts(tmp_path, log)
    assert late > 0


@pytest.mark.slow
def test_more_is_held_back_than_is_handed_out_and_by_two_targets(tmp_path: Path, run: Run) -> None:
    """Polls of a topic that one stage holds back are kept from its other readers, too: no reason to wait."""
    soon = '[labels.targets.soon]\nexposure = "shown"\nwindow = "1h"\nsamples_topic = "samples-soon"\n'
    write_project(tmp_path, f"{TOML}\n{soon}".replace('window = "30m"', 'window = "4h"'))
    log = make_log(60)
    code, out, _ = run(tmp_path, *write_log(tmp_path, log), "--slice", "10m", "--until-idle")
    assert (code, "no dead letters" in out) == (0, True)
    for target in ("", "soon"):
        _, out, _ = run(tmp_path, "samples", "--target", target, "--format", "jsonl")
        assert len(out.splitlines()) == log.labels["shown"].num_rows


Ended = tuple[dict[str, dict[int, int]], pa.Table]


def lived(folder: Path, log: NewsLog, rng: random.Random, steps: int = 0) -> Ended:
    """The topics' ends and the samples of a replay that, if it has ``steps``, is killed three times at random ones."""
    # With several partitions of requests, the trainer reads them in the order in which they happen to come.
    write_project(folder, TOML.replace("[request]\npartitions = 2", "[request]\npartitions = 1"))
    write_log(folder, log)
    for die_at in [*(rng.randrange(1, steps) for _ in range(3 if steps else 0)), 0]:
        output = folder.parent / "log"
        with output.open("wb") as there:
            process = forked.start([MORTAL, folder, str(die_at), "30"], stdout=there, stderr=subprocess.STDOUT)
        assert process.wait(300) in (0, -signal.SIGKILL), output.read_text()[-4_000:]
    _, samples = verdicts(folder, log)
    with EmbeddedLog.open(folder / ".dovetail" / "log.sqlite") as kept:
        ends = {topic: kept.end_offsets(topic) for topic in ("reads", "requests", "shown", "click")}
    order = [("request_id", "ascending"), ("item_id", "ascending")]
    return ends, samples.drop_columns([*OWN_COLUMNS, *SOURCE_COLUMNS]).sort_by(order)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[NewsLog, int, Ended]:
    """A log, how many steps its replay takes, and how it ends."""
    log, folder = make_log(60, arrival=True), tmp_path_factory.mktemp("undisturbed") / "whole"
    ended = lived(folder, log, random.Random(0))
    return log, int((folder / "steps").read_text()), ended


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, seed: int, undisturbed: tuple[NewsLog, int, Ended]
) -> None:
    log, steps, (ends, samples) = undisturbed
    ends_of_killed, samples_of_killed = lived(tmp_path / "killed", log, random.Random(seed), steps)
    assert ends == ends_of_killed
    differing = [
        name for name in samples.column_names if not samples.column(name).equals(samples_of_killed.column(name))
    ]
    assert differing == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--requests", "nowhere.parquet"], "requests=nowhere.parquet"),
        (["--stream", "nothing=x.parquet"], "nothing: no rows are sent to 'nothing'"),
        (["--stream", "reads"], "--stream 'reads': write NAME=FILE"),
        (["--slice", "soon"], "--slice 'soon'"),
        (["--requests", "SELECT 1 AS request_id"], "1 rows do not fit"),
    ],
)
def test_misuse_is_explained_and_nothing_is_sent(tmp_path: Path, run: Run, change: list[str], message: str) -> None:
    write_project(tmp_path)
    code, _, err = run(tmp_path, *write_log(tmp_path, make_log(5)), *change)
    assert code == 2
    assert message in err
    assert not (tmp_path / ".dovetail" / "log.sqlite").exists()


def test_an_unfinished_replay_of_something_else_is_not_mixed_up(tmp_path: Path, run: Run) -> None:
    write_project(tmp_path)
    command = write_log(tmp_path, make_log(5))
    plan: dict[str, Any] = {"inputs": [], "slice_us": 1, "identity": "x", "begun": {}, "finished": False}
    (tmp_path / ".dovetail" / "replay").mkdir(parents=True)
    (tmp_path / ".dovetail" / "replay" / "plan.json").write_text(json.dumps(plan))
    code, _, err = run(tmp_path, *command)
    assert code == 2
    assert "has begun there and is not finished" in err


@pytest.mark.services
def test_a_log_is_replayed_through_kafka(tmp_path: Path, run: Run, kafka_url: str) -> None:
    mark = uuid.uuid4().hex[:8]
    toml = TOML.replace('name = "news"', f'name = "news_{mark}"')
    toml = toml.replace("[request]", f'[request]\ntopic = "requests-{mark}"\nsnapshots_topic = "snapshots-{mark}"')
    toml = toml.replace("[labels]", f'[labels]\nsamples_topic = "samples-{mark}"')
    for section in ("streams.reads", "labels.streams.shown", "labels.streams.click"):
        toml = toml.replace(f"[{section}]", f'[{section}]\ntopic = "{section.rpartition(".")[2]}-{mark}"')
    toml += f'\n[storage]\nbroker = "{kafka_url}"\n'
    log = make_log(40, arrival=True)
    for kept in ("", '[broker.retention]\ninputs = "7d"\n'):
        write_project(tmp_path / f"kept{len(kept)}", toml + kept)
        code, _, err = run(tmp_path / f"kept{len(kept)}", *write_log(tmp_path / f"kept{len(kept)}", log))
        assert (code, "Kafka removes messages by their own time" in err) == (2, True)
    write_project(tmp_path, toml + '[broker.retention]\ninputs = "forever"\n')
    code, out, err = run(tmp_path, *write_log(tmp_path, log), "--until-idle")
    assert code == 0, err
    assert "no dead letters" in out
    verdicts(tmp_path, log)
    code, out, _ = run(tmp_path, "samples", "--format", "jsonl")
    assert len(out.splitlines()) == log.labels["shown"].num_rows
