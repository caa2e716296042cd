"""Runs are told by OpenLineage's specification, as its own library reads it, and no run fails by the telling."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openlineage.client import event_v2
from openlineage.client.generated import base

from dovetail.app.openlineage.emitting import emitter_of, lineage_run
from dovetail.app.openlineage.named_datasets import dataset_at
from dovetail.app.openlineage.run_events import LineageDataset, told_run
from dovetail.cli.stored.join import run as run_join
from dovetail.features import load
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.extras import DISTRIBUTION
from dovetail.platform.testing import ManualClock
from tests.app.quality.receiver import Receiver
from tests.app.small_project import TOML, run, write_project

#: The library's class of each facet.
MODULES = {
    "schema": ("schema_dataset", "SchemaDatasetFacet"),
    "outputStatistics": ("output_statistics_output_dataset", "OutputStatisticsOutputDatasetFacet"),
    "sql": ("sql_job", "SQLJobFacet"),
    "jobType": ("job_type_job", "JobTypeJobFacet"),
    "errorMessage": ("error_message_run", "ErrorMessageRunFacet"),
    "processing_engine": ("processing_engine_run", "ProcessingEngineRunFacet"),
}


def checked(event: Mapping[str, Any]) -> event_v2.RunEvent:
    """The event as the library's, which refuses what its schema does not have."""
    given = json.loads(json.dumps(event))
    assert given.pop("schemaURL") == event_v2.RunEvent._get_schema()
    inputs = [dataset(base.InputDataset, each) for each in given.pop("inputs")]
    outputs = [dataset(base.OutputDataset, each) for each in given.pop("outputs")]
    known = event_v2.Run(given["run"].pop("runId"), facets(given["run"].pop("facets")))
    job = event_v2.Job(given["job"].pop("namespace"), given["job"].pop("name"), facets(given["job"].pop("facets")))
    assert given.pop("run") == given.pop("job") == {}
    state = event_v2.RunState[given.pop("eventType")]
    return event_v2.RunEvent(eventType=state, run=known, job=job, inputs=inputs, outputs=outputs, **given)


def facets(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, fields in given.items():
        module, kind = MODULES[name]
        facet = getattr(import_module(f"openlineage.client.generated.{module}"), kind)
        own = {key: value for key, value in fields.items() if not key.startswith("_")}
        assert fields["_schemaURL"] == facet._get_schema()
        assert fields["_producer"].startswith("urn:dovetail:")
        found[name] = facet(**own)
        assert set(own) <= {field.name for field in facet.__attrs_attrs__}
    return found


def dataset(kind: Any, given: dict[str, Any]) -> Any:
    own = {name: facets(given.pop(name)) for name in ("facets", "inputFacets", "outputFacets") if name in given}
    return kind(given.pop("namespace"), given.pop("name"), **own, **given)


def test_a_run_starts_and_completes() -> None:
    told: list[Mapping[str, Any]] = []
    clock = ManualClock(1_700_000_000_123_456)
    read = [LineageDataset("file", "/in", pa.schema([("a", pa.int64())]))]
    about = {"namespace": "ns", "job": "shop.backfill.ranking", "kind": "BACKFILL", "inputs": read, "sql": "SELECT 1"}
    with told_run(told.append, clock, **about) as going:  # type: ignore[arg-type]
        clock.advance(1_000_000)
        going.outputs.append(LineageDataset("s3://bucket", "/out", pa.schema([("b", pa.string())]), 12))
    start, end = (checked(event) for event in told)
    assert [told[0]["eventTime"], told[1]["eventTime"]] == [
        "2023-11-14T22:13:20.123456Z", "2023-11-14T22:13:21.123456Z",
    ]  # fmt: skip
    assert (start.eventType, end.eventType) == (event_v2.RunState.START, event_v2.RunState.COMPLETE)
    assert start.run.runId == end.run.runId
    assert uuid.UUID(end.run.runId).version == 4
    assert (end.job.namespace, end.job.name) == ("ns", "shop.backfill.ranking")
    assert told[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 12
    assert told[1]["outputs"][0]["facets"]["schema"]["fields"] == [{"name": "b", "type": "string"}]
    assert told[0]["job"]["facets"]["sql"]["query"] == "SELECT 1"
    assert told[0]["outputs"] == []
    assert told[0]["producer"] == f"urn:dovetail:{version(DISTRIBUTION)}"


def test_a_run_that_fails_says_why_without_secrets() -> None:
    told: list[Mapping[str, Any]] = []
    with (
        pytest.raises(ConfigError),
        told_run(told.append, ManualClock(0), namespace="n", job="j", kind="TRAIN"),
    ):
        raise ConfigError("postgresql://me:secret@host/db is away")
    checked(told[1])
    assert told[1]["eventType"] == "FAIL"
    message = told[1]["run"]["facets"]["errorMessage"]["message"]
    assert message == "ConfigError: postgresql://me:***@host/db is away"


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("/data/x", ("file", "/data/x")),
        ("s3://bucket/a/b", ("s3://bucket", "/a/b")),
        ("ftp://me:secret@host:1/a", ("ftp://host:1", "/a")),
        ("memory://a", ("memory://a", "/")),
    ],
)
def test_datasets_are_named_by_where_they_are(url: str, where: tuple[str, str]) -> None:
    found = dataset_at(url)
    assert (found.namespace, found.name) == where


def config_of(folder: Path, lines: str) -> Config:
    write_project(folder, TOML + f"\n[openlineage]\n{lines}\n", {})
    return load_config(folder)


def test_events_are_posted_and_a_receiver_that_fails_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver([201, 400]) as receiver:
        monkeypatch.setenv("LINEAGE_TO", receiver.url("secret"))
        config = config_of(tmp_path / "a", 'url_env = "LINEAGE_TO"\nnamespace = "prod"')
        with caplog.at_level(logging.WARNING), lineage_run(config, "join.samples", "JOIN"):
            pass
        documents = [document for _, document in receiver.received]
    assert [document["eventType"] for document in documents] == ["START", "COMPLETE"]
    assert documents[0]["job"]["name"] == "small.join.samples"
    assert documents[0]["job"]["namespace"] == "prod"
    assert "lineage not told" in caplog.text
    assert "HTTP 400" in caplog.text
    assert "secret" not in caplog.text


def test_without_a_place_nobody_is_told_and_a_wrong_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert emitter_of(config_of(tmp_path / "a", "")) is None
    with lineage_run(None, "train.model", "TRAIN") as going:
        going.outputs.append(dataset_at("/out"))
    monkeypatch.delenv("LINEAGE_TO", raising=False)
    with pytest.raises(ConfigError, match="environment variable LINEAGE_TO holds no address"):
        emitter_of(config_of(tmp_path / "b", 'url_env = "LINEAGE_TO"'))
    with pytest.raises(ConfigError, match="remove all but one of them"):
        config_of(tmp_path / "c", 'url_env = "LINEAGE_TO"\nfile = "x"')
    with pytest.raises(ConfigError, match="begins with http"):
        config_of(tmp_path / "d", 'url = "no address"')
    (tmp_path / "file").touch()
    with lineage_run(config_of(tmp_path / "e", f'file = "{tmp_path}/file/x"'), "j", "JOIN"):
        pass
    assert "lineage not told" in caplog.text


def test_a_join_is_told_in_the_file_of_the_project(tmp_path: Path) -> None:
    write_project(tmp_path, TOML + '\n[openlineage]\nfile = "lineage.jsonl"\n')
    run(tmp_path)
    assert run_join(tmp_path, str(tmp_path / "out"), "", compare=False, as_json=True) == 0
    events = [json.loads(line) for line in (tmp_path / "lineage.jsonl").read_text().splitlines()]
    for event in events:
        checked(event)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    offline = load(tmp_path).config.path("state/offline")
    assert {each["name"] for each in events[0]["inputs"]} == {
        str(offline / name) for name in ("snapshots", "exposure", "click")
    }
    (out,) = events[1]["outputs"]
    assert (out["namespace"], out["name"]) == ("file", str(tmp_path / "out"))
    assert out["outputFacets"]["outputStatistics"]["rowCount"] > 0
    assert "events" in {column["name"] for column in out["facets"]["schema"]["fields"]}
