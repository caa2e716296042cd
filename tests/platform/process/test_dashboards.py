"""Metrics are named by Prometheus' conventions; each query of a dashboard is of metrics and labels that there are."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from dovetail.api.call_metrics import CallMetrics
from dovetail.app.quality.alert_metrics import AlertMetrics
from dovetail.app.worker import assemble, label_watermark
from dovetail.platform.clock import SystemClock
from dovetail.platform.process.health import HealthServer
from dovetail.platform.process.metrics import WorkerMetrics
from dovetail.platform.process.monitor import Monitor, Pulse
from dovetail.platform.stores.registry.archived.window_sketches import AlertCount
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.requests import RankingMetrics
from dovetail.trainer.metrics.telemetry import ModelMetrics
from tests.app.small_project import MESSAGES, TOML, finished, project_in, write_project
from tests.places import ROOT

DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
#: Labels that Prometheus adds when it scrapes.
SCRAPED = {"instance", "job"}
#: By sample name, the values of each of its labels.
Exposed = Mapping[str, Mapping[str, set[str]]]


class _Late:
    """An observer that is made before what it observes."""

    metrics: WorkerMetrics

    def polled(self, stage: str, topic: str, messages: int) -> None:
        self.metrics.polled(stage, topic, messages)

    def committed(self, stage: str, seconds: float) -> None:
        self.metrics.committed(stage, seconds)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``/metrics`` of a worker that has lived, with a model, an API and alerts."""
    folder = tmp_path_factory.mktemp("metrics") / "project"
    write_project(folder, TOML, MESSAGES)
    registry, observer, pulse = CollectorRegistry(), _Late(), Pulse()
    ProcessCollector(registry=registry)

    async def lived() -> str:
        worker = assemble(project_in(folder), observer=observer)
        monitor = Monitor(worker.runtime, pulse, loop_timeout_s=0)
        observer.metrics = WorkerMetrics(
            registry, SystemClock(), lag=monitor.lag, accounts=worker.accounts, loop_lag_s=pulse.lag_s,
            watermark_us=lambda: label_watermark(worker.project.config, worker.stores.labels),
        )  # fmt: skip
        registry.register(AlertMetrics(worker.stores.registry, 60_000_000))
        worker.stores.registry.windows.judge("click", 0, [AlertCount("click", "", "rows", "error", 2)], 0)
        _model_and_calls(registry)
        try:
            await worker.runtime.start()
            await worker.runtime.wait_for(lambda: finished(worker))
            return await asyncio.to_thread(_asked, monitor, registry)
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    return asyncio.run(lived())


def _model_and_calls(registry: CollectorRegistry) -> None:
    evaluation = Evaluation()
    evaluation.add(np.full(4, 0.25, np.float32), np.array([0, 1, 0, 1], np.float32), np.ones(4, np.float32))
    ranking = RankingMetrics(10, 4, 3, 2, 40, 0.75, 0.5, 0.25, 1.0)
    model = ModelMetrics("m", registry)
    model.update(10, [("total", evaluation.total().with_ranking(ranking))])
    model.damaged(0)
    CallMetrics(registry).answered("/v1/rank", 200, 0.01)


def _asked(monitor: Monitor, registry: CollectorRegistry) -> str:
    server = HealthServer("127.0.0.1", 0, monitor.alive, monitor.ready, registry)
    try:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as told:
            text: str = told.read().decode()
            return text
    finally:
        server.close()


@pytest.fixture(scope="module")
def exposed(answer: str) -> Exposed:
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(answer):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def queries() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.stem}: {variable['name']}", variable["query"]


@pytest.mark.parametrize(("panel", "query"), list(queries()))
def test_a_query_is_of_metrics_and_labels_that_there_are(exposed: Exposed, panel: str, query: str) -> None:
    names = set(re.findall(r"\b(?:dovetail|process)_\w+", query))
    assert names, panel
    assert names <= set(exposed), panel
    for name, matchers in re.findall(r"\b((?:dovetail|process)_\w+)\{([^}]*)\}", query):
        for label, sign, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', matchers):
            assert label in exposed[name], f"{panel}: {name} has no label {label}"
            assert sign == "=~" or value in exposed[name][label], f"{panel}: no {name} has {label}={value}"
    known = set.intersection(*(set(exposed[name]) for name in names)) | SCRAPED
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= known, f"{panel}: {group}"
    if query.startswith("label_values("):
        assert query[:-1].split(", ")[1] in known


def test_legends_name_labels_that_the_query_keeps() -> None:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                kept = {
                    label.strip() for each in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in each.split(",")
                }
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_each_dashboard_has_panels_that_do_not_overlap() -> None:
    assert [path.stem for path in DASHBOARDS] == ["flow", "model"]
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]}) > 5
        assert all(x in (0, 12) and y % 8 == 0 for x, y in places)


def test_names_follow_the_conventions_of_prometheus(answer: str) -> None:
    """Counters end in _total, sizes and times are in bytes and seconds, and nothing else looks as if it were so."""
    own = [family for family in text_string_to_metric_families(answer) if family.name.startswith("dovetail_")]
    assert len(own) > 15
    for family in own:
        assert re.fullmatch(r"dovetail_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation, family.name
        assert not re.search(
            r"_(ms|millis|milliseconds|us|minutes|hours|days|kb|mb|kib|mib|percent|total|count|sum)$", family.name
        )
        totals = [sample.name for sample in family.samples if sample.name.endswith("_total")]
        assert bool(totals) == (family.type == "counter"), family.name


def test_every_metric_is_in_the_table_of_operations(exposed: Exposed) -> None:
    told = Path(ROOT / "docs" / "operations.md").read_text() + Path(ROOT / "docs" / "http.md").read_text()
    for name in exposed:
        if name.startswith("dovetail_"):
            bare = re.sub(r"_(bucket|count|sum|created)$", "", name)
            assert bare in told or re.sub(r"_total$", "", bare) in told, bare
