"""The flow is told as stores and topics have it; verdicts are logged when they are given, and told whole."""

from __future__ import annotations

import asyncio
import inspect
import re
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.app.looking.flow_state import FlowState, flow_state
from dovetail.app.looking.letters import newest_letters
from dovetail.app.reports.verdict_log import AUDIT, CONSISTENCY, given_verdicts
from dovetail.cli.stored.audit import run as run_audit
from dovetail.cli.stored.consistency import run as run_consistency
from dovetail.console.flow_picture import flow_picture
from dovetail.console.looked import Looked
from dovetail.console.pages.flow_page import flow_page
from dovetail.console.pages.trust_page import MEANINGS, trust_page
from dovetail.console.rates import Rates
from dovetail.console.rendering import page
from dovetail.demo.kept_run import project_of_run
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.joiners.batch import label_audit
from dovetail.platform.stores.registry.given_verdicts import Verdict
from dovetail.platform.stores.registry.store import Registry
from tests.app.small_project import MESSAGES, TOML, live, stores_of, write_project
from tests.app.test_trained_on_shards import REQUESTS, on_shards, one_life, small_project
from tests.console.shown_run import contents, with_looked


async def state_of(looked: Looked) -> FlowState:
    return await flow_state(looked.project, looked.stores, looked.topics, looked.archives)


def test_the_flow_of_a_run_has_read_all_and_accounts_for_it(run_folder: Path) -> None:
    async def look(looked: Looked) -> None:
        state = await state_of(looked)
        stages = {stage.name: stage for stage in state.stages}
        assert {stage.lag for stage in state.stages if stage.kind != "trainer"} == {0}
        assert stages["trainer"].lag is None
        for stage in state.stages:
            assert stage.read == sum(stage.outcomes.values()), stage.name
            assert stage.waits == ""
        assert state.topics["behaviour"] == stages["features.user_activity"].read
        assert state.label_watermark_us is not None
        shown = await flow_page(looked)
        assert shown["letters"] == []

    with_looked(project_of_run(run_folder), look)


def test_what_is_behind_waits_and_is_dead_is_told(tmp_path: Path) -> None:
    """Features and archives have run; nobody has read labels and requests."""
    write_project(tmp_path, TOML, MESSAGES)
    asyncio.run(live(tmp_path, roles=("features", "labels", "snapshots", "archive")))

    async def look(looked: Looked) -> None:
        state = await state_of(looked)
        stages = {stage.name: stage for stage in state.stages}
        assert stages["labels.exposure"].dead == 1
        assert stages["samples"].lag == state.topics["snapshots"] > 0
        assert stages["samples"].waits == "labels: exposure[0] has come least far"
        assert stages["labels.click"].lag == 0
        assert state.dead_letters >= 2
        letters = await newest_letters(looked.topics, looked.project.config.dead_letter_topic, 50)
        assert {"{", "not json"} <= {letter["value"] for letter in letters}
        assert len(await newest_letters(looked.topics, looked.project.config.dead_letter_topic, 1)) == 1
        picture = flow_picture(looked.project, state, {("labels.click", "click"): 2.5})
        assert {box.name for box in picture.boxes} == {
            "behaviour", "requests", "exposure", "click", "features.activity", "snapshots", "labels.exposure",
            "labels.click", "samples", "samples.1", "order.samples",
        }  # fmt: skip
        read = {line.read.topic: line.read for line in picture.lines if line.read}
        assert read["snapshots"].lag == state.topics["snapshots"]
        assert {topic for topic, reading in read.items() if reading.dead} == {"click", "exposure", "requests"}
        assert sum(reading.dead for reading in read.values()) == state.dead_letters
        assert [line.rate for line in picture.lines if line.read and line.read.topic == "click"] == [2.5]
        assert {line.rate for line in picture.lines} == {None, 2.5}
        assert all(box.x + box.width <= picture.width and box.y + box.height <= picture.height for box in picture.boxes)

    with_looked(load(tmp_path), look)


def test_of_a_model_by_samples_the_workers_are_shown(tmp_path: Path) -> None:
    small_project(tmp_path, on_shards(2, workers=3))
    one_life(tmp_path)

    async def look(looked: Looked) -> None:
        stages = {stage.name: stage for stage in (await state_of(looked)).stages}
        inside = ("splitter", "gradients", "shards", "reducer", "versions")
        assert [stages[name].lag for name in inside] == [0] * 5, "a worker that stops has kept all"
        picture = (await flow_page(looked))["picture"]
        boxes = {box.name: box for box in picture.boxes}
        columns = [boxes[name].x for name in ("trainer", *inside)]
        assert columns == sorted(set(columns))
        behind = [line for line in picture.lines if line.x > boxes["trainer"].x + boxes["trainer"].width]
        assert len(behind) == 7, "to splitter, gradients (2), shards, reducer and versions (2)"

    with_looked(load(tmp_path), look)


def test_a_model_on_shards_is_shown_from_gatherer_to_versions(tmp_path: Path) -> None:
    small_project(tmp_path, on_shards(2))
    one_life(tmp_path)
    kept = tmp_path / "state" / "checkpoints" / "first"
    before = contents(tmp_path)

    async def look(looked: Looked) -> None:
        state = await state_of(looked)
        stages = {stage.name: stage for stage in state.stages}
        inside = ("splitter", "shards", "reducer", "versions")
        assert [stages[name].lag for name in ("trainer", *inside)] == [0] * 5, "a worker that stops has kept all"
        assert stages["trainer"].read == stages["trainer"].outcomes["trained"] == REQUESTS * 3
        assert [stage.name for stage in state.stages if not stage.counted] == [*inside]
        shown = await flow_page(looked)
        boxes, lines = {box.name: box for box in shown["picture"].boxes}, shown["picture"].lines
        columns = [boxes[name].x for name in ("order.samples", "trainer", *inside)]
        assert columns == sorted(set(columns))
        behind = [line for line in lines if line.x > boxes["trainer"].x + boxes["trainer"].width]
        assert len(behind) == 7, "to splitter, shards (2), reducer (2) and versions (2)"
        said = page("flow.html", {**shown, "tabs": (), "path": "/flow", "project": "small", "vega": ""})
        assert "2 of them" in said
        assert f"version {shown['models']['latest']}" in said
        trust = await asyncio.to_thread(trust_page, looked)
        (check,) = [check for check in trust["books"].checks if check.what == "samples: ordered, and trained on"]
        assert check.holds
        assert check.left == check.right == REQUESTS * 3
        # Of a shard that has died the newest file is older; what is behind it is on its way once more.
        newest = sorted((kept / "shard-1-of-2").glob("checkpoint-*.npz"))
        newest[-1].rename(tmp_path / "aside")
        lag = next(stage.lag for stage in (await state_of(looked)).stages if stage.name == "shards")
        assert lag is not None
        assert lag > 0
        (tmp_path / "aside").rename(newest[-1])
        newest[-1].write_bytes(b"torn")
        damaged = next(stage for stage in (await state_of(looked)).stages if stage.name == "shards")
        assert damaged.lag is None
        assert "shard-1-of-2" in damaged.waits
        # Another machine has the files.
        kept.rename(tmp_path / "elsewhere")
        assert {stage.lag for stage in (await state_of(looked)).stages if stage.name in inside} == {None}
        assert not kept.exists()

    with_looked(load(tmp_path), look)
    assert set(before) - set(contents(tmp_path)) == {n for n in before if n.startswith("state/checkpoints/first/")}


def test_rates_are_since_the_last_looks() -> None:
    now = [100.0]
    rates = Rates[str](lambda: now[0])
    assert rates.of({"a": 10}) == {}
    now[0] += 0.5
    assert rates.of({"a": 90}) == {}, "too soon to say"
    now[0] += 1.5
    assert rates.of({"a": 30, "b": 4}) == {"a": 10.0, "b": 2.0}
    now[0] += 100
    assert rates.of({"a": 1_000}) == {}, "nobody has looked for long"


def test_every_outcome_of_the_audit_has_a_meaning() -> None:
    """The words are those of its SQL, for there is no list of them."""
    words = set(re.findall(r"(?:THEN|ELSE|SELECT '[^']*',) '([a-z_]+)'", inspect.getsource(label_audit)))
    assert {"lost", "orphaned", "down_sampled", "unexposed_sampled", "retracted"} <= words
    assert words - {"sampled"} <= set(MEANINGS)


def test_commands_log_their_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_project(tmp_path)
    asyncio.run(live(tmp_path, roles=("features", "snapshots", "labels", "samples", "archive")))
    assert run_audit(tmp_path, "", None, as_json=True) == 0
    assert run_consistency(tmp_path, None, Limits(), witness=1, as_json=True) == 0
    capsys.readouterr()

    async def look(looked: Looked) -> None:
        shown = await asyncio.to_thread(trust_page, looked)
        (audit,), (consistency,) = shown["audits"], shown["consistencies"]
        assert audit.holds
        assert consistency.holds
        assert shown["books"].balanced
        assert audit.report["outcomes"]["click"]["corrected"] == 1
        assert consistency.report["compared"] > 0
        assert consistency.report["witness"]["requests"] == 1
        outcomes = {outcome for found in audit.report["outcomes"].values() for outcome in found}
        assert outcomes - {"sampled"} <= set(MEANINGS)

    with_looked(load(tmp_path), look)
    with closing(stores_of(tmp_path)) as stores:
        assert [len(given_verdicts(stores.registry, kind, 9)) for kind in (AUDIT, CONSISTENCY, "other")] == [1, 1, 0]


def test_the_last_verdicts_of_a_kind_are_kept(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    for at in range(205):
        registry.add_verdict(Verdict("audit", at, at % 2 == 0, "{}"))
    registry.add_verdict(Verdict("consistency", 7, True, "{}"))
    registry.add_verdict(Verdict("audit", 204, False, "again"))
    kept = registry.verdicts("audit", 1_000)
    assert [verdict.at_us for verdict in kept] == list(range(204, 4, -1))
    assert kept[0] == Verdict("audit", 204, False, "again")
    assert registry.verdicts("consistency", 3) == [Verdict("consistency", 7, True, "{}")]
    with registry._database.write() as connection:
        connection.execute(sa.text("DROP TABLE verdicts"))
    registry.close()
    old = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}", read_only=True)
    assert old.verdicts("audit", 3) == []
    old.close()
