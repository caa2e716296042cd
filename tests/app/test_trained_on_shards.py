"""A worker that trains a model on shards: one process' model bit for bit, also when it has died in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dovetail.app.flow import Flow
from dovetail.app.modelling import recipe_of, sample_topic_of
from dovetail.app.reports import audit_worker
from dovetail.app.storage import open_stores
from dovetail.app.trainer_stage import checkpoint_refusal, evaluation_of, shard_stages
from dovetail.app.worker import Worker, assemble
from dovetail.cli.main import app
from dovetail.features import load
from dovetail.platform.config.broker import Retention
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.stage import Poll
from dovetail.platform.transports.embedded.locking import FileLock
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.publish import Model
from dovetail.trainer.sharded.assembly import gather_records
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from tests.app.small_project import SQL, TOML, Messages, at, exposure, request, write_project
from tests.trainer.sharded.stage_world import learned

MODEL = """
[model]
name = "first"
bits = 8
inputs = [{ column = "item_id" }, { column = "events", kind = "standardised" }]
publish_every = 40
checkpoint_every = 30
"""
#: Labels say which request they are of, and nothing is corrected.
PLAIN = TOML.replace('attribute = "latest_request"\nattribute_within = "10m"\n', "").replace(
    'corrections = "15m"\n', ""
)
TABLES = SQL.replace("click (user_id", "click (request_id VARCHAR NOT NULL, user_id")
REQUESTS, PUBLISH_EVERY = 60, 40


def declared(trainer: str) -> str:
    return PLAIN + MODEL + trainer


def on_shards(shards: int, workers: int = 0) -> str:
    by = f'by = "samples"\nworkers = {workers}\n' if workers else ""
    return declared(f"[trainer]\nshards = {shards}\nbatch_rows = 16\n{by}")


def messages() -> Messages:
    users = ("u", "v", "w")
    return {
        "behaviour": [{"user_id": users[n % 3], "event_time": at(1 + n)} for n in range(20)],
        "requests": [request(f"r{n}", users[n % 3], [1, n % 7 + 2, n % 5 + 10], 30 + n) for n in range(REQUESTS)],
        "exposure": [exposure(f"r{n}", item, 31 + n) for n in range(REQUESTS) for item in (1, n % 7 + 2, n % 5 + 10)],
        "click": [
            {"request_id": f"r{n}", "user_id": users[n % 3], "item_id": n % 7 + 2, "event_time": at(40 + n)}
            for n in range(0, REQUESTS, 3)
        ],
    }


def small_project(folder: Path, toml: str) -> None:
    write_project(folder, toml, messages())
    (folder / "sql" / "tables.sql").write_text(TABLES)


class Killed(Exception):
    """Raised by a step that a worker did not survive."""


def one_life(folder: Path, dies_at: tuple[str, str, int] | None = None) -> Worker:
    """A worker until all is handled, stopped in good order; or until the n-th time that a stage takes a step."""
    times = 0

    def on_step(stage: str, step: str) -> None:
        nonlocal times
        times += dies_at is not None and (stage, step) == dies_at[:2]
        if dies_at is not None and times == dies_at[2]:
            raise Killed

    async def life() -> Worker:
        worker = assemble(load(folder), on_step=on_step)
        try:
            async with asyncio.timeout(100):
                await worker.runtime.start()
                flow = Flow(worker)
                for stages in (["features.behaviour"], ["snapshots"], ["labels.exposure", "labels.click"]):
                    await flow.handled(stages)
                await flow.settled()
                if isinstance(reducer := worker.stages.get("reducer"), ReduceStage):
                    state = reducer.state(0) or reducer.stored(0)  # what an earlier life has done is not done again
                    assert state.evaluator.evaluation.samples == REQUESTS * 3
                await flow.finish(release=False)
            assert audit_worker(worker).balanced
            trained = Counter[str]()
            for account in worker.accounts():
                trained[account.stage] += account.rows if account.outcome == "trained" else 0
            assert set((+trained).values()) == {REQUESTS * 3}
        finally:
            await worker.runtime.stop()
            worker.stores.close()
        return worker

    return asyncio.run(life())


def one_process(folder: Path) -> tuple[Learner, dict[int, Model]]:
    """The trainer of mini-batches in one process, of the batches that the log has; and its versions."""
    project = load(folder)
    config, model = project.config, project.config.model
    assert model is not None
    assert config.labels.order is not None
    samples = sample_topic_of(config, model, project.feature_set.schema)
    learner = recipe_of(model, mixed=config.labels.order.block_rows).untrained(samples)
    seen, versions = SourceFilter(), dict[int, Model]()
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        (end,) = log.end_offsets("first-batches").values()
        for offset in range(end):
            poll = log.read("first-batches", 0, offset, max_records=1)
            assert isinstance(poll, Poll)
            rows = samples.decode(poll)
            versions |= learned(learner, rows.filter(pa.array(seen.admit(rows))), PUBLISH_EVERY)
    return learner, versions


@pytest.mark.parametrize(
    ("shards", "workers", "dies_at"),
    [
        (1, 0, ("shards", "published", 3)),
        (2, 0, ("reducer", "published", 3)),
        (2, 0, ("splitter", "published", 4)),
        (2, 3, ("gradients", "published", 5)),
    ],
)
def test_a_worker_trains_what_one_process_would(
    tmp_path: Path, shards: int, workers: int, dies_at: tuple[str, str, int]
) -> None:
    folder = tmp_path / "project"
    small_project(folder, on_shards(shards, workers))
    with pytest.raises(Killed):
        one_life(folder, dies_at)
    worker = one_life(folder)
    learner, versions = one_process(folder)
    assert learner.trained == REQUESTS * 3
    project = load(folder)
    with closing(open_stores(project.config)) as stores:
        (stage,) = shard_stages(project, stores)
        assert isinstance(stage, ShardStage)
        kept = learner.optimizer.new_records(8)
        for number in range(shards):
            shard = stage.stored(number).shard
            gather_records(shard.ring, number, shard.records, kept)
        assert np.count_nonzero(kept)
        assert kept.tobytes() == learner.records.tobytes()
        assert stores.models.versions() == sorted(versions) == [1, 2, 3, 4]
        for version, model in versions.items():
            assert stores.models.load_full(version).content(version) == model.content(version)
        rows = [row for row in stores.registry.metrics("first") if row.scope == "total"]
        assert {row.trained for row in rows} == {40, 80, 120, 160}
        assert checkpoint_refusal(project, stores) is None
    evaluation = evaluation_of(worker.stages)
    assert evaluation is not None
    assert evaluation.total() == learner.evaluation.total()
    answer = CliRunner().invoke(app, ["model", "show", "--project", str(folder)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "total" in answer.output


def refusal(folder: Path, toml: str) -> str:
    (folder / "dovetail.toml").write_text(toml)
    with pytest.raises(ModelError) as refused:
        assemble(load(folder))
    with closing(open_stores(load(folder).config)) as stores:
        assert checkpoint_refusal(load(folder), stores) == str(refused.value)
    return str(refused.value)


def called(command: str, name: str, folder: Path, toml: str) -> str:
    (folder / "dovetail.toml").write_text(toml)
    result = CliRunner().invoke(app, [command, name, "--project", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_shards_do_not_go_on_from_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    small_project(folder, on_shards(2))
    one_life(folder)
    assert "shards: stored 2, configured 3. Stop all workers and run dovetail model reshard, which" in refusal(
        folder, on_shards(3)
    )
    with pytest.raises(ConfigError, match="say how many shards the model is to be on"):
        called("model", "reshard", folder, declared(""))
    another_process = FileLock(folder / "state/log.sqlite")
    with pytest.raises(ConfigError, match="a worker of the project runs, and would go on with the shards it knows"):
        called("model", "reshard", folder, on_shards(3))
    another_process.release()
    assert called("model", "reshard", folder, on_shards(3)).startswith("from 2 shards to 3 shards: ")
    max((folder / "state/checkpoints/first/splitter").glob("checkpoint-*")).unlink()  # as if killed before the splitter
    assert "shards: stored 3, configured 2. Stop all workers and run dovetail model reshard, which" in refusal(
        folder, on_shards(2)
    )
    assert called("model", "reshard", folder, on_shards(2)) == (
        "a change to 3 shards was interrupted; it is taken back\nthe model is on 2 shards\n"
    )
    (folder / "dovetail.toml").write_text(on_shards(2))
    assemble(load(folder)).stores.close()
    assert called("model", "reshard", folder, on_shards(3)).startswith("from 2 shards to 3 shards: ")
    (folder / "dovetail.toml").write_text(on_shards(3))
    assemble(load(folder)).stores.close()
    assert called("model", "reshard", folder, on_shards(3)) == "the model is on 3 shards\n"
    assert "shards: stored 3, configured 2" in refusal(folder, on_shards(2))
    assert "has checkpoints of a model on shards, from which one without does not go on" in refusal(
        folder, declared("")
    )
    # By samples, with as many workers as shards.
    by_samples = on_shards(3).replace("shards = 3\n", 'shards = 3\nby = "samples"\n')
    said = "workers: stored None, configured 3. Stop all workers and run dovetail model reshard, which places the model"
    assert said in refusal(folder, by_samples)
    assert called("model", "reshard", folder, by_samples) == (
        "from 3 shards to 3 shards and 3 workers: 0 slots have moved, 0%; start workers\n"
    )
    (folder / "dovetail.toml").write_text(by_samples)
    with closing(open_stores(load(folder).config)) as stores:
        assert checkpoint_refusal(load(folder), stores) is None
    assert "workers: stored 3, configured None" in refusal(folder, on_shards(3))
    assert "; or restore [trainer] shards, by and workers" in refusal(folder, on_shards(3, 2))
    result = CliRunner().invoke(app, ["model", "reshard", "--project", str(folder), "--json"], catch_exceptions=False)
    told = {"before": 3, "after": 3, "moved": 0, "workers_before": 3, "workers": 2, "taken_back": 0}
    assert json.loads(result.output) == told
    # Another model begins anew, not from another one's position.
    (folder / "dovetail.toml").write_text(on_shards(3).replace('"first"', '"second"'))
    evaluation = evaluation_of(one_life(folder).stages)
    assert evaluation is not None
    assert evaluation.samples == REQUESTS * 3


def test_shards_do_not_go_on_from_a_trainer_without(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    small_project(folder, declared(""))
    one_life(folder)
    assert "has checkpoints of a trainer without shards, from which shards do not go on" in refusal(
        folder, on_shards(2)
    )
    (folder / "dovetail.toml").write_text(on_shards(2).replace("[labels.order]\nblock_rows = 2\n", ""))
    for option in ("--seed", "--adopt"):
        result = CliRunner().invoke(app, ["train", "--project", str(folder), option])
        said = (
            f"{option}: the trainer has checkpoints of first without shards, from which shards do not go on; give the"
        )
        assert said in str(result.exception)
    kept = sorted((folder / "state/checkpoints").rglob("*"))
    result = CliRunner().invoke(app, ["model", "reshard", "--project", str(folder)])
    assert "has checkpoints of a trainer without shards, which cannot be placed on shards; remove" in str(
        result.exception
    )
    assert sorted((folder / "state/checkpoints").rglob("*")) == kept
    # The way that is told: another name.
    (folder / "dovetail.toml").write_text(
        on_shards(2).replace("[labels.order]\nblock_rows = 2\n", "").replace('"first"', '"second"')
    )
    result = CliRunner().invoke(app, ["train", "--project", str(folder), "--seed"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (folder / "dovetail.toml").write_text(
        declared("").replace("[labels.order]\nblock_rows = 2\n", "").replace('"first"', '"second"')
    )
    for option in ("--seed", "--adopt"):
        result = CliRunner().invoke(app, ["train", "--project", str(folder), option])
        assert f"{option}: second is a model on shards, from which a trainer without does not go on" in str(
            result.exception
        )


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (declared("[trainer]\nshards = 0\n"), "trainer.shards"),
        (declared("[trainer]\nstaleness = 2\n"), "staleness: without shards the model is trained sample by sample"),
        (declared("[trainer]\nshards = 2\nstaleness = -1\n"), "trainer.staleness: it is no number of batches (got -1)"),
        (declared('[trainer]\nshards = 2\nstaleness = "soon"\n'), "trainer.staleness"),
        (TOML + "[trainer]\nshards = 2\n", r"trainer.shards: there is no [model] to be trained"),
        (declared("[trainer]\nshards = 2\nworkers = 2\n"), "workers: batches are dealt to workers by samples only"),
        (declared("[trainer]\nshards = 2\ncompensation = 0.1\n"), "compensation: with a staleness of 0 no weight"),
        (
            declared('[trainer]\nshards = 2\nby = "samples"\n').replace("bits", "slots = { admit_after = 2 }\nbits"),
            "model.slots: which values are admitted depends on all samples before, and by samples each worker knows",
        ),
        (
            declared('[trainer]\nshards = 2\n').replace("[labels]\n", '[labels]\nsamples_topic = "first-margins"\n'),
            "topic 'first-margins' is declared twice, by [labels] samples_topic and by [trainer] shards",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, toml: str, said: str) -> None:
    (tmp_path / "dovetail.toml").write_text(toml)
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path)
    assert said in str(refused.value)


def test_topics_between_shards(tmp_path: Path) -> None:
    (tmp_path / "dovetail.toml").write_text(declared(""))
    without: dict[str, Any] = load_config(tmp_path).topics()
    (tmp_path / "dovetail.toml").write_text(
        declared('[trainer]\nshards = 5\nstaleness = "async"\n[broker.retention]\nsamples = "7d"\n')
    )
    config = load_config(tmp_path)
    more = {"first-batches": 1, "first-parts-5": 5, "first-margins": 1, "first-credits": 1, "first-versions": 1}
    assert config.topics() == without | more
    kept = {topic: config.retention()[topic] for topic in more}
    assert kept.pop("first-credits") == Retention(3_600_000)
    assert set(kept.values()) == {Retention(7 * 86_400_000)}
    (tmp_path / "dovetail.toml").write_text(declared('[trainer]\nshards = 5\nby = "samples"\nworkers = 3\n'))
    assert load_config(tmp_path).topics() == without | more | {"first-dealt-3": 3}


def test_delays_are_compensated_where_the_configuration_says_so(tmp_path: Path) -> None:
    small_project(tmp_path, declared("[trainer]\nshards = 2\nstaleness = 4\ncompensation = 0.25\n"))
    project = load(tmp_path)
    with closing(open_stores(project.config)) as stores:
        (stage,) = shard_stages(project, stores)
        assert isinstance(stage, ShardStage)
        assert stage.fresh(0).shard.optimizer.describe()["strength"] == 0.25
