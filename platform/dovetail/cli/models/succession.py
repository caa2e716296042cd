"""A model for the project's trainer, with positions: laid down as its first checkpoint, or handed over as its next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.app.modelling import recipe_of
from dovetail.app.storage import open_stores
from dovetail.app.trainer_stage import lay_down_on_shards
from dovetail.cli.models.samples import Samples, label_of, model_of
from dovetail.platform.archive.dayfiles import NEVER_US, DayFiles
from dovetail.platform.config.load import Config
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.positions import SOURCE_COLUMNS, Progress, SourceFilter
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.checkpoint import CheckpointStore, TrainerProgress, describe, image, settings_of
from dovetail.trainer.models.handed_over import Mailbox
from dovetail.trainer.models.state_files import differences, newest_head
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.training import LEFT_OUT, TRAINED

__all__ = ["Positions", "Successor", "checkpoints_of"]


def checkpoints_of(config: Config) -> Path:
    """The folder of the checkpoints of the project's trainer."""
    return config.path(config.storage.state) / "checkpoints" / model_of(config).name


class Positions:
    """Remembers, of the first pass, where samples stood in their topic: a worker goes on behind them."""

    def __init__(self) -> None:
        self.next: dict[int, int] = {}
        self.rows: Counter[int] = Counter()
        #: By partition: rows of other ones are no repetitions of its own.
        self.sources: defaultdict[int, SourceFilter] = defaultdict(SourceFilter)
        self._done = False

    def watch(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """``tables``, noting the positions of those that have any."""
        for table in tables:
            if not self._done and {"_partition", "_offset", "_source_offset"} <= set(table.column_names):
                self._note(table)
            yield table
        self._done = True

    def _note(self, table: pa.Table) -> None:
        for partition, offsets in _offsets(table):
            self.pass_over(partition, offsets)
            self.rows[partition] += len(offsets)
        self.admit(table)

    def admit(self, table: pa.Table) -> None:
        """Let the rows be repetitions when they are published again."""
        partitions = table.column("_partition").to_numpy()
        for partition in np.unique(partitions).tolist():
            self.sources[partition].admit(table.filter(pa.array(partitions == partition)))

    @property
    def source_filter(self) -> dict[int, int]:
        """State of the source filter of all partitions together."""
        last: dict[int, int] = {}
        for sources in self.sources.values():
            for partition, position in sources.state.items():
                last[partition] = max(position, last.get(partition, -1))
        return last

    def pass_over(self, partition: int, offsets: npt.NDArray[np.int64]) -> None:
        """Go on behind rows at ``offsets``."""
        self.next[partition] = max(self.next.get(partition, 0), int(offsets.max()) + 1)


def _offsets(table: pa.Table) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """The offsets of the rows, by partition."""
    partitions, offsets = (table.column(name).to_numpy() for name in ("_partition", "_offset"))
    for partition in np.unique(partitions).tolist():
        yield partition, offsets[partitions == partition]


def _left_out(counted: Positions, archive: DayFiles, until_us: int) -> Counter[int]:
    """The archived rows, by partition, that the worker is not to train on although they were not chosen.

    Those are the rows before the ones that were chosen, and those of earlier days than chosen in partitions that had
    none; ``counted.next`` is moved behind them.
    """
    left: Counter[int] = Counter()
    for table in archive.read(["_partition", "_offset"], None, until_us):
        for partition, offsets in _offsets(table):
            counted.pass_over(partition, offsets)
    for table in archive.read(["_partition", "_offset", *SOURCE_COLUMNS], None, NEVER_US):
        partitions, offsets = (table.column(name).to_numpy() for name in ("_partition", "_offset"))
        passed = np.zeros(table.num_rows, np.bool_)
        for partition, after in counted.next.items():
            passed |= (partitions == partition) & (offsets < after)
        left.update(partitions[passed].tolist())
        counted.admit(table.filter(pa.array(passed)))  # published again, they are repetitions, too
    left.subtract(counted.rows)
    return left


@dataclass(frozen=True, slots=True)
class Successor:
    """The place that a model is trained for: the first checkpoint of a trainer, or the next one of a running trainer.

    Raises:
        ConfigError: of the first, there are some; the trainer reads another topic than the archive has the positions
            of; of the next, the model is on shards; or the checkpoints are with shards and the project without, or the
            other way round.
    """

    config: Config
    #: The option that asked for it: ``--seed`` is for the first checkpoint, ``--adopt`` for the next one.
    option: str

    def __post_init__(self) -> None:
        labels, name = self.config.labels, model_of(self.config).name
        if labels.order is not None:
            raise ConfigError(
                f"{self.option}: with [labels.order] the worker trains on {labels.training_topic}, and the archive has "
                f"the positions of {labels.samples_topic}; it would train on the same samples again"
            )
        folder, sharded = checkpoints_of(self.config), self.config.trainer.sharded
        without_shards = newest_head(folder) is not None
        if sharded and without_shards:
            raise ConfigError(
                f"{self.option}: the trainer has checkpoints of {name} without shards, from which shards do not go on; "
                "give the model another name and lay it down by --seed, or remove [trainer] shards and hand it over by "
                "--adopt"
            )
        if sharded and self.option == "--adopt":
            raise ConfigError(
                "--adopt: the project's model is on shards ([trainer] shards), and a running one takes no other in; "
                "give the model another name and lay it down by --seed"
            )
        if not sharded and newest_head(folder / "splitter") is not None:
            raise ConfigError(
                f"{self.option}: {name} is a model on shards, from which a trainer without does not go on; give the "
                "model another name and lay it down by --seed"
            )
        if self.option == "--seed" and without_shards:
            raise ConfigError(
                f"--seed: the trainer has checkpoints of {name} already and would go on from them; hand this model "
                "over to it by --adopt, give the model another name, or move them away"
            )

    def place(self, learner: Learner, counted: Positions, found: Samples) -> str:
        """Put the trained model there, with the positions of the samples that it has seen; says what becomes of it.

        Raises:
            ConfigError: the samples have no positions, an earlier model has not been taken in yet, or it is not the
                model that the project declares.
            ModelError: it has diverged.
        """
        topic = self.config.labels.samples_topic
        if not counted.next:
            raise ConfigError(
                f"{self.option} needs samples that know their positions (the project's archive has them): without, the "
                "worker would train on the same samples again; use --out, and --start with the next training"
            )
        left = Counter[int]() if found.archive is None else _left_out(counted, found.archive, found.until_us)
        accounts = tuple(
            Account(self.config.in_scene("trainer"), topic, partition, outcome, rows)
            for partition in sorted(counted.next)
            for outcome, rows in (
                (READ, counted.rows[partition] + left[partition]),
                (TRAINED, counted.rows[partition]),
                (LEFT_OUT, left[partition]),
            )
            if rows
        )
        model = model_of(self.config)
        settings = settings_of(topic, model.publish_every, delayed=model.publish_delay is not None)
        older = f", and {left.total():,} that were left out" if left.total() else ""
        behind = f"behind {counted.rows.total():,} samples{older}"
        self._require_declared(learner, settings)
        if self.config.trainer.sharded:
            progress = {
                partition: Progress(after, sources=counted.sources[partition].state)
                for partition, after in counted.next.items()
            }
            stores = open_stores(self.config)
            try:
                lay_down_on_shards(self.config, stores, learner, progress, accounts)
            finally:
                stores.close()
            return f"the shards go on from here, {behind}"
        adopted = uuid4().hex if self.option == "--adopt" else ""
        content = image(
            learner, TrainerProgress({topic: counted.next}, counted.source_filter, accounts, adopted), settings
        )
        if adopted:
            Mailbox(checkpoints_of(self.config)).put(content)
            return f"the running trainer takes it in within seconds and goes on from here, {behind}"
        CheckpointStore(checkpoints_of(self.config)).save(content, after=0)
        return f"the worker goes on from here, {behind}"

    def _require_declared(self, learner: Learner, settings: dict[str, Any]) -> None:
        """Refuse a model that the trainer would not go on from: of other inputs, rules or hyperparameters."""
        label, absent = label_of(self.config)
        declared = recipe_of(model_of(self.config)).untrained(SampleTopic("", label=label, absent=absent))
        ours, theirs = describe(declared, settings), describe(learner, settings)
        refused = f"{self.option}: the project's trainer would not go on from this model"
        if found := [*differences(ours.pop("optimizer"), theirs.pop("optimizer"))]:
            names = [(old, new) for field, old, new in found if field == "name"]
            told = [f"with {new}, where the project has {old}" for old, new in names] or [
                f"with {field} = {new}, where the project has {old}" for field, old, new in found
            ]
            another = "" if self.option == "--seed" else ", give the model another name and lay it down by --seed"
            raise ConfigError(
                f"{refused}: it was trained {'; '.join(told)}. Leave out --optimizer, --set and --compensation, or "
                f"write the optimizer into [model.optimizer]{another}"
            )
        if found := [*differences(ours, theirs)]:
            told = [f"{field} is {new!r}, where the project has {old!r}" for field, old, new in found]
            raise ConfigError(
                f"{refused}: {'; '.join(told)}. Train it on the archive with the inputs and rules of "
                "the project's [model]"
            )
