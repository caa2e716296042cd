"""``train --seed`` for a model on shards: they go on behind the samples of the archive, each of which counts once."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.app.flow import Flow
from dovetail.app.modelling import recipe_of, sample_topic_of
from dovetail.app.reports import audit_worker
from dovetail.app.storage import open_stores
from dovetail.app.trainer_stage import evaluation_of, shard_stages
from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.stage import Poll
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.trainer.sharded.assembly import gather_records
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from tests.app.adopting.test_full_model_taken_in import ROWS, send
from tests.app.small_project import run, write_project
from tests.app.test_trained_on_shards import PUBLISH_EVERY, TABLES, on_shards
from tests.cli.trained_project import call
from tests.trainer.sharded.stage_world import learned


class Killed(Exception):
    """Raised where the process ends."""


def unordered(workers: int = 0) -> str:
    return on_shards(2, workers).replace("[labels.order]\nblock_rows = 2\n", "")


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose archive has the samples of one wave, and no trainer yet."""
    folder = tmp_path_factory.mktemp("archived") / "project"
    write_project(folder, unordered(), {})
    (folder / "sql" / "tables.sql").write_text(TABLES)
    send(folder, 0)
    run(folder)
    return folder


async def to_the_end(folder: Path) -> None:
    """A worker with everything, until all is handled; no sample counts twice."""
    worker = assemble(load(folder))
    try:
        async with asyncio.timeout(100):
            await worker.runtime.start()
            await Flow(worker).settled()
            await Flow(worker).finish(release=False)
        assert audit_worker(worker).unbalanced == []
        evaluation = evaluation_of(worker.stages)
        assert evaluation is not None
        assert evaluation.samples == ROWS
    finally:
        await worker.runtime.stop()
        worker.stores.close()


def test_what_is_laid_down_has_the_positions_of_the_archive(archived: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(archived, tmp_path / "project")
    with pytest.raises(ConfigError, match="--adopt: the project's model is on shards"):
        call("train", "-p", folder, "--adopt")
    told = call("train", "-p", folder, "--seed", "--last-days", 1)["checkpoint"]
    assert f"the shards go on from here, behind {ROWS // 2} samples" in told
    with closing(open_stores(load(folder).config)) as stores:
        (progress,) = stores.registry.progress("trainer.first-batches").values()
        assert progress.next_offset > 0
        assert progress.sources
        books = [a for a in stores.registry.accounts() if a.stage == "trainer.first-batches"]
        assert {account.outcome: account.rows for account in books} == {"read": ROWS // 2, "trained": ROWS // 2}
    with pytest.raises(ConfigError, match="the trainer has states of first already"):
        call("train", "-p", folder, "--seed")


@pytest.mark.parametrize("workers", [0, 3], ids=["by features", "by samples"])
def test_killed_before_the_positions_are_stored_no_sample_counts_twice(
    archived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The samples come again, and the splitter drops them; the model goes on to the bit."""
    folder = shutil.copytree(archived, tmp_path / "project")
    (folder / "dovetail.toml").write_text(unordered(workers))

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "commit", killed)
        with pytest.raises(Killed):
            call("train", "-p", folder, "--seed")
    send(folder, 1)
    asyncio.run(to_the_end(folder))
    project = load(folder)
    config, model = project.config, project.config.model
    assert model is not None
    samples = sample_topic_of(config, model, project.feature_set.schema)
    learner, seen = recipe_of(model).untrained(samples), SourceFilter()
    with closing(open_stores(config)) as stores:
        rows = read_dataset(stores.registry, stores.offline, "samples")
        learner.learn(rows.sort_by([("_offset", "ascending"), ("_row", "ascending")]).slice(0, ROWS // 2))
        first = {f"r{n}" for n in range(ROWS // 6)}
        with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
            (end,) = log.end_offsets("first-batches").values()
            for offset in range(end):
                poll = log.read("first-batches", 0, offset, max_records=1)
                assert isinstance(poll, Poll)
                batch = samples.decode(poll)
                fresh = [name not in first for name in batch.column("request_id").to_pylist()]
                fresh = [new and one for new, one in zip(fresh, seen.admit(batch).tolist(), strict=True)]
                learned(learner, batch.filter(pa.array(fresh)), PUBLISH_EVERY)
        (stage,) = shard_stages(project, stores)
        assert isinstance(stage, ShardStage)
        kept = learner.optimizer.new_records(model.bits)
        for number in range(2):
            shard = stage.stored(number).shard
            gather_records(shard.ring, number, shard.records, kept)
        assert learner.trained == ROWS
        assert kept.tobytes() == learner.records.tobytes()
        assert stores.models.versions() == [2, 3]
