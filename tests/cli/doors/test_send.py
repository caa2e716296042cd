"""``dovetail send``, and the worker that ends when all is done."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.reports import audit_worker
from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows.identity import EVENT_ID_HEADER
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests import forked
from tests.app.doors.news import make_log, write_project

COMMAND = Path(sys.executable).parent / "dovetail"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


@pytest.fixture
def dovetail(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the project: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dovetail", *arguments, "-p", str(project)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, " ".join(printed.err.split())

    return run


def messages(project: Path, topic: str) -> list[tuple[bytes | None, bytes]]:
    with EmbeddedLog.open(project / ".dovetail" / "log.sqlite") as log:
        polls = [log.read(topic, number, 0) for number in log.end_offsets(topic)]
    return [pair for poll in polls if poll is not None for pair in zip(poll.keys, poll.values, strict=True)]  # type: ignore[misc]


def test_lines_go_as_they_stand_keyed_so_that_what_belongs_together_stays_in_order(
    project: Path, dovetail: Any
) -> None:
    line = '{"user_id": "u",  "item_id":"n", "event_time": "2024-03-01T08:00:00Z", "more": 1}'
    (project / "x.jsonl").write_text(line + "\n")
    assert dovetail("send", "reads", str(project / "x.jsonl"))[:2] == (0, "1 rows sent to reads\n")
    assert messages(project, "reads") == [(b"u", line.encode())]


def test_a_bad_row_is_told_and_nothing_is_sent(project: Path, dovetail: Any) -> None:
    good = {"user_id": "u", "item_id": "n", "event_time": "2024-03-01T08:00:00Z"}
    lines = [good, {**good, "item_id": None}, {**good, "event_time": "2999-01-01T00:00:00Z"}]
    (project / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, err = dovetail("send", "reads", str(project / "x.jsonl"))
    assert (code, out) == (1, "nothing sent to reads: 2 rows are bad; correct them, or give --skip-bad\n")
    assert "row 2: column item_id is missing or NULL" in err
    assert "row 3: event_time is more than max_ahead" in err
    assert not (project / ".dovetail").exists()
    code, out, _ = dovetail("send", "reads", str(project / "x.jsonl"), "--skip-bad", "--json")
    said = json.loads(out)
    assert (code, said["sent"], [bad["row"] for bad in said["bad"]]) == (0, 1, [2, 3])


def test_standard_input_and_a_watermark(project: Path, dovetail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"request_id": ["a"], "item_id": ["n"], "event_time": ["2024-03-01T08:00:00Z"]})
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    sink.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(sink))
    code, out, _ = dovetail("send", "click", "-", "--format", "parquet", "--watermark", "2024-03-01T09:00:00Z")
    assert code == 0
    assert out == ("1 rows sent to click; announced there: nothing older than 2024-03-01T09:00:00Z follows\n")
    assert sorted(value[:1] for _, value in messages(project, "click")) == [b"", b"", b"\xff"]


def test_rows_of_a_named_call_are_known_by_its_name_and_their_number(project: Path, dovetail: Any) -> None:
    toml = (project / "dovetail.toml").read_text()
    (project / "x.jsonl").write_text('{"user_id": "u", "item_id": "n", "event_time": "2024-03-01T08:00:00Z"}\n' * 2)
    code, _, err = dovetail("send", "reads", "x.jsonl", "--idempotency-key", "a")
    assert (code, '[streams.reads] unique_within = "1d"' in err) == (2, True)
    (project / "dovetail.toml").write_text(toml.replace("[streams.reads]", '[streams.reads]\nunique_within = "1d"'))
    for key in ("a", "b"):
        assert dovetail("send", "reads", str(project / "x.jsonl"), "--idempotency-key", key)[0] == 0
    with EmbeddedLog.open(project / ".dovetail" / "log.sqlite") as log:
        polls = [poll for number in log.end_offsets("reads") if (poll := log.read("reads", number, 0)) is not None]
    names = sorted(dict(headers)[EVENT_ID_HEADER] for poll in polls for headers in poll.headers)
    assert names == [b"a/1", b"a/2", b"b/1", b"b/2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "x.jsonl"], "TOPIC: no rows are sent to 'nowhere'"),
        (["snapshots", "x.jsonl"], "TOPIC: no rows are sent to 'snapshots'"),
        (["reads"], "FILE: say which rows to send"),
        (["reads", "x.jsonl"], "FILE: x.jsonl does not exist"),
        (["reads", "x.jsonl", "--format", "xml"], "--format 'xml': choose from"),
        (["reads", "--watermark", "soon"], "--watermark 'soon': write a time"),
    ],
)
def test_misuse_is_explained(dovetail: Any, arguments: list[str], message: str) -> None:
    code, _, err = dovetail("send", *arguments)
    assert code == 2
    assert message in err


@pytest.mark.slow
@pytest.mark.parametrize("attributed", [False, True])
def test_sent_and_worked_until_idle_all_samples_are_there(project: Path, dovetail: Any, attributed: bool) -> None:
    """Nothing comes after the rows: what waits for later labels, and labels for later requests, is released."""
    log = make_log(30)
    clicks = log.labels["click"]
    if attributed:
        toml = (project / "dovetail.toml").read_text()
        (project / "dovetail.toml").write_text(
            toml.replace("[labels.streams.click]", '[labels.streams.click]\nattribute = "latest_request"')
        )
        sql = project / "sql" / "labels.sql"
        sql.write_text(sql.read_text().replace("click (request_id", "click (user_id"))
        user_of = dict(zip(*(log.requests.column(name).to_pylist() for name in ("request_id", "user_id")), strict=True))
        users = pa.array([user_of[request] for request in clicks.column("request_id").to_pylist()])
        clicks = clicks.append_column("user_id", users)
    for name, table in {
        "reads": log.reads,
        "requests": log.requests,
        "shown": log.labels["shown"],
        "click": clicks,
    }.items():
        pq.write_table(table, project / f"{name}.parquet")
        assert dovetail("send", name, str(project / f"{name}.parquet"))[0] == 0
    for _ in range(2):  # the second one finds that all is done
        ended = forked.run([COMMAND, "worker", "-p", project, "--until-idle"], timeout=300)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    loaded = load(project)
    worker = assemble(loaded)
    try:
        assert audit_worker(worker).balanced
        samples = read_dataset(worker.stores.registry, worker.stores.offline, "samples")
        letters = read_dataset(worker.stores.registry, worker.stores.offline, "dead_letters").num_rows
        # Sent in bulk, requests that the state has passed by are not answered; that is what `replay` is for.
        answered = log.labels["shown"].num_rows - samples.num_rows
        assert samples.num_rows > 0
        assert (answered > 0) == (letters > 0)
    finally:
        worker.stores.close()
