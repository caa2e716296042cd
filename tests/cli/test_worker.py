"""A worker from the command line, ``dovetail worker`` and Faust's own: what it says while it runs, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog

TOML = """
name = "shop"
[streams.events]
key = "user_id"
[tables.items]
path = "items.parquet"
[labels]
window = "1m"
[labels.streams.exposure]
[labels.streams.click]
[model]
name = "clicks"
bits = 10
publish_every = 4
checkpoint_every = 4
inputs = [{ column = "hour_of_day" }, { column = "views" }]
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
FILES = {
    "schemas": f"""
CREATE TABLE events (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE items (item_id BIGINT, category VARCHAR, available_at TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
""",
    "users": """
SELECT user_id, count(*) OVER hour AS views FROM events
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
""",
    "ranking": """
SELECT request_id, item_id, hour(request_time) AS hour_of_day, users.views
FROM request LEFT JOIN users USING (user_id)
""",
}
WORKER = (sys.executable, "-c", "from dovetail.cli import main; main()", "worker")
FAUST = str(Path(sys.executable).parent / "faust")
BY_FAUST = (FAUST, "-A", "dovetail.app", "worker", "--without-web", "--loglevel", "info")
NOON_MS = 1_767_268_800_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def write_project(folder: Path, toml: str = TOML) -> None:
    """The definitions and ``dovetail.toml``."""
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(toml)
    for name, text in FILES.items():
        (folder / "sql" / f"{name}.sql").write_text(text)


def feed(project: Path) -> None:
    """Two requests of three candidates, all seen, one clicked; labels go on an hour later; and what nobody can read."""

    def message(topic: str, minute: int, **row: object) -> Outgoing:
        (time,) = {"requests": ["request_time"]}.get(topic, ["event_time"])
        value = json.dumps({**row, time: f"2026-01-01T{12 + minute // 60}:{minute % 60:02d}:00Z"}).encode()
        return Outgoing(topic, value, partition=0, timestamp_ms=NOON_MS + minute * 60_000)

    messages = [message("events", 0, user_id="u"), Outgoing("events", b"{", partition=0, timestamp_ms=NOON_MS)]
    for name in ("a", "b"):
        messages.append(
            message("requests", 1, request_id=name, user_id="u", candidates=[{"item_id": i} for i in range(3)])
        )
        messages += [message("exposure", 1, request_id=name, item_id=i) for i in range(3)]
    messages.append(message("click", 1, request_id="a", item_id=1))
    messages += [message(kind, 60, request_id="later", item_id=0) for kind in ("exposure", "click")]
    (project / ".dovetail").mkdir(exist_ok=True)
    with EmbeddedLog.open(project / ".dovetail" / "log.sqlite") as log:
        for topic, partitions in load(project).config.topics().items():
            log.create_topic(topic, partitions)
        log.append(messages)


@contextmanager
def start(project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process; a test that fails does not wait for its end."""
    command = [*WORKER, "-p", str(project), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        try:
            yield worker
        finally:
            if worker.poll() is None:
                worker.kill()


def said(worker: subprocess.Popen[str], pattern: str) -> str:
    """The first line from now on that matches, up to its first group."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if found := re.search(pattern, line):
            return found.group(1)
    raise AssertionError(f"the worker ended without saying {pattern!r}")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def until(url: str, line: str) -> str:
    """The page, once it has the line."""
    pause = threading.Event()
    while line not in (page := get(url)).splitlines():
        pause.wait(0.05)
    return page


@pytest.mark.slow
def test_a_worker_tells_its_health_and_metrics_and_stops_when_told(project: Path) -> None:
    feed(project)
    with start(project, "--health-port", "0", "--log-json") as worker:
        url = said(worker, r'"url": "(http://127\.0\.0\.1:\d+)"')
        said(worker, r'"message": "(started)"')
        until(f"{url}/metrics", 'dovetail_model_trained_samples{model="clicks"} 4.0')
        assert json.loads(get(f"{url}/healthz"))
        assert json.loads(get(f"{url}/readyz"))["ready"] is True
        for line in (
            'dovetail_rows_total{outcome="applied",stage="features.users",topic="events"} 1.0',
            'dovetail_rows_total{outcome="dead_letter",stage="features.users",topic="events"} 1.0',
            'dovetail_rows_total{outcome="snapshotted",stage="snapshots",topic="requests"} 2.0',
            'dovetail_rows_total{outcome="sampled",stage="samples",topic="snapshots"} 6.0',
            'dovetail_model_samples{model="clicks",scope="total"} 4.0',
        ):
            metrics = until(f"{url}/metrics", line)  # a sample may be trained on before it is counted as made
        for name in ("lag_messages", "poll_messages_bucket", "commits_total", "commit_seconds_count",
                     "label_watermark_lag_seconds", "event_loop_lag_seconds", "model_log_loss"):  # fmt: skip
            assert f"\ndovetail_{name}" in metrics
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=60)
    assert (worker.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(line.keys() == {"time", "level", "logger", "message", "fields"} for line in lines)
    assert {line["level"] for line in lines} == {"info"}
    assert lines[-1]["message"] == "stopped"
    assert lines[-1]["fields"] == {"group": "dovetail-shop"}


@pytest.mark.slow
def test_fausts_own_command_runs_the_project_and_stops_when_told(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    feed(project)
    with subprocess.Popen(
        BY_FAUST,
        cwd=tmp_path_factory.mktemp("elsewhere"),  # Faust writes a folder of its own there
        env={**os.environ, "DOVETAIL_PROJECT": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # Faust logs there
        text=True,
    ) as worker:
        try:
            said(worker, r"(first dead letter of its kind): stage=features.events topic=events partition=0 offset=1 ")
            said(worker, r"(model published): model=clicks version=1 kind=full trained=4 ")
            worker.send_signal(signal.SIGTERM)
            out, _ = worker.communicate(timeout=60)
        finally:
            if worker.poll() is None:
                worker.kill()
    assert worker.returncode == 0, out
    assert "archive flushed: dataset=samples partition=0 rows=6 " in out
    left = assemble(load(project))
    try:
        books = audit_worker(left)
        assert books.balanced, books.unbalanced
        checked = consistency_of(left.project, left.stores)
        assert (checked.compared, checked.mismatched) == (12, 0)  # two features of six candidates
        samples = read_dataset(left.stores.registry, left.stores.offline, "samples").to_pylist()
        clicked = {(row["request_id"], row["item_id"]): row["label"] for row in samples}
        assert clicked == {(name, item): int((name, item) == ("a", 1)) for name in ("a", "b") for item in range(3)}
    finally:
        left.stores.close()


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(project: Path) -> None:
    with start(project, "--agents", "labels") as worker:
        said(worker, r"^\S+Z INFO dovetail\.cli\.worker: (started): group=dovetail-shop\.labels$")
        # Both arrive before it can do anything; the lower number is seen first.
        for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            worker.send_signal(number)
        _, err = worker.communicate(timeout=60)
    assert worker.returncode == 128 + signal.SIGTERM
    assert "told a second time: ends at once" in err


@pytest.mark.slow
def test_a_definition_that_cannot_be_kept_starts_nothing(project: Path) -> None:
    poison = FILES["users"].replace("count(*)", "sum(price)")
    (project / "sql" / "users.sql").write_text(poison)
    with start(project) as worker:
        _, err = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert re.search(r"users\.sql:2: .*price", err)
    assert not (project / ".dovetail").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents", "nobody"], "nobody"),
        (["--stop-timeout", "soon"], "worker.stop_timeout: "),
        (["--health-port", "70000"], "'--health-port': Input should be less than or equal to 65535"),
        (["--log-level", "chatty"], "worker.log_level: "),
        (["-p", "nowhere"], "nowhere: no such file; run `dovetail init DIR` for a new project"),
    ],
)
def test_misuse_is_explained(
    project: Path,
    arguments: Sequence[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["dovetail", "worker", "-p", str(project), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_an_offline_table_that_is_not_there_is_said_before_anything_starts(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "sql" / "profile.sql").write_text(
        "SELECT item_id, max(category) AS category FROM items GROUP BY item_id"
    )
    ranking = FILES["ranking"].replace("users.views", "users.views, profile.category")
    (project / "sql" / "ranking.sql").write_text(f"{ranking.rstrip()} LEFT JOIN profile USING (item_id)")
    monkeypatch.setattr("sys.argv", ["dovetail", "worker", "-p", str(project)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert re.search(r"offline table items, which .*profile\.sql reads: .*items\.parquet does not exist; write it", err)
