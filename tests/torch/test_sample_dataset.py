"""A torch loader reads each sample once, whatever stops it, and ends with the weights of an undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.platform.errors import ConfigError, StateError
from tests.samples.sample_worlds import World

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'dovetail-samples[torch]'")

#: More than this machine may have processors for, which PyTorch remarks.
WORKERS = 4
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "project")
    world.send([(number % 2, 1 + number % 5, number % 7 == 0) for number in range(120)])
    world.archive(40, 25)
    yield world
    world.close()


def loader_of(folder: Path, workers: int = WORKERS, **options: Any) -> Any:
    from dovetail.torch import Columns, SampleDataset, SampleLoader

    columns = Columns(dense=["item_id"], sparse=["request_id"], weight="weight")
    dataset = SampleDataset(folder, columns, **{"batch_rows": 7, "shuffle_rows": 20, "seed": 3} | options)
    return SampleLoader(dataset, workers=workers)


class Model:
    """Logistic regression by plain gradient steps: every batch, in its order, changes the bits."""

    def __init__(self) -> None:
        self.weights = torch.zeros(2)
        self.seen: list[tuple[int, float]] = []

    def step(self, batch: dict[str, Any]) -> None:
        inputs = torch.cat([batch["dense"], torch.ones(len(batch["label"]), 1)], dim=1)
        error = torch.sigmoid(inputs @ self.weights) - batch["label"]
        self.weights = self.weights - 0.1 * (inputs.T @ error)
        values, lengths = batch["sparse"]["request_id"]
        assert lengths.tolist() == [1] * len(error)
        self.seen += list(zip(values.tolist(), batch["dense"][:, 0].tolist(), strict=True))


def trained(folder: Path, workers: int = WORKERS) -> Model:
    model = Model()
    for batch in loader_of(folder, workers):
        model.step(batch)
    return model


@pytest.mark.slow
def test_a_loader_that_is_killed_ends_with_the_weights_of_one_that_is_not(world: World) -> None:
    whole = trained(world.folder)
    assert len(whole.seen) == len(set(whole.seen)) == len(world.expected)
    random, model, saved, lives = np.random.default_rng(0), Model(), "", 0
    while lives < 20:
        loader = loader_of(world.folder)
        if saved:
            loader.load_state_dict(json.loads(saved))
        left = int(random.integers(1, 5)) if lives < 19 else 10**9
        lives += 1
        for number, batch in enumerate(loader):
            if number == left:
                break  # it was given out, and nothing of it was kept
            model.step(batch)
            saved = json.dumps(loader.state_dict())
            if number == 0 and lives == 5:
                world.archive(5, 25)  # what is read moves on meanwhile
    assert model.seen == whole.seen
    assert model.weights.tolist() == whole.weights.tolist()


def test_one_process_and_several_read_the_same_samples(world: World) -> None:
    assert sorted(trained(world.folder, 0).seen) == sorted(trained(world.folder, 3).seen)
    parts = []
    for rank in range(2):
        model = Model()
        for batch in loader_of(world.folder, 2, rank=(rank, 2)):
            model.step(batch)
        parts.append(model.seen)
    assert not set(parts[0]) & set(parts[1])
    assert sorted(parts[0] + parts[1]) == sorted(trained(world.folder, 0).seen)


def test_a_plain_data_loader_takes_the_dataset(world: World) -> None:
    from dovetail.torch import Columns, SampleDataset

    dataset = SampleDataset(world.project, Columns(dense=["item_id"], weight=None), batch_rows=50)
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2))
    assert sum(len(batch["label"]) for batch in batches) == len(world.expected)
    assert all(set(batch) == {"dense", "sparse", "sequences", "label"} for batch in batches)


def test_a_state_of_another_loader_is_refused(world: World) -> None:
    loader = loader_of(world.folder)
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    with pytest.raises(StateError, match="a loader with 4 workers, and this one has 2"):
        loader_of(world.folder, 2).load_state_dict(state)
    with pytest.raises(StateError, match="has format 1, this says 7"):
        loader.load_state_dict({**state, "format": 7})
    other = loader_of(world.folder, batch_rows=8)
    other.load_state_dict(state)
    with pytest.raises(StateError, match="batch_rows"):
        list(other)
    with pytest.raises(ConfigError, match="shard is not given to a dataset"):
        loader_of(world.folder, shard=(0, 2))
    with pytest.raises(ConfigError, match=r"rank = \(2, 2\)"):
        loader_of(world.folder, rank=(2, 2))


def test_lists_that_candidates_share_are_one_row_for_each_request(world: World) -> None:
    from dovetail.torch import Columns, SampleDataset, SampleLoader, Sequences

    def batches(per_request: bool) -> list[Any]:
        history = Sequences("history", length=3, per_request=per_request)
        dataset = SampleDataset(
            world.folder, Columns(sequences=[history]), batch_rows=7, shuffle_rows=20, seed=3, topic=False
        )
        return [batch["sequences"]["history"] for batch in SampleLoader(dataset)]

    fewer = 0
    for (values, lengths, rows), (flat, of_rows) in zip(batches(True), batches(False), strict=True):
        assert torch.equal(values[rows], flat)
        assert torch.equal(lengths[rows], of_rows)
        fewer += len(values) < len(flat)
    assert fewer
