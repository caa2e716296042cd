"""The topics between the stages of a model on shards, and how far its batches may be ahead of one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dovetail.trainer.sharded.batch_messages import BatchMessage, BatchPart, ModelPiece, PartWeights
from dovetail.trainer.sharded.dealt_rows import BatchSamples
from dovetail.trainer.sharded.evaluated_rows import Verdict
from dovetail.trainer.sharded.sample_worker import worker_of

__all__ = ["AHEAD", "CREDIT_EVERY_US", "Placement", "ShardTopics", "Sharding", "shard_folder", "worker_folder"]

#: Batches that the splitter may be ahead of the last predicted one beyond the staleness: what keeps shards at work.
AHEAD = 16
#: How often the reducer says how far it is although nothing has changed: credits need not be kept for much longer.
CREDIT_EVERY_US = 60_000_000


class Placement(NamedTuple):
    """How many shards a model is on, and how many workers compute its gradients; none of a model by features."""

    shards: int
    workers: int = 0

    def __str__(self) -> str:
        return f"{self.shards} shards" + (f" and {self.workers} workers" if self.workers else "")

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Placement:
        """The placement in the configuration of a stage."""
        given = configuration.get("settings", configuration)
        return cls(int(given["shards"]), int(given.get("workers", 0)))

    def describe(self) -> dict[str, int]:
        """As JSON-ready values; part of the configuration of every stage."""
        return {"shards": self.shards, **({"workers": self.workers} if self.workers else {})}

    def within(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a stage with this placement instead of its own."""
        if "settings" in configuration:
            return {**configuration, "settings": self.within(configuration["settings"])}
        return {**{name: value for name, value in configuration.items() if name != "workers"}, **self.describe()}


@dataclass(frozen=True, slots=True)
class ShardTopics:
    """Topics of one partition each, but for ``parts``, whose partition p is the mailbox of shard p, and ``dealt``.

    ``batches``: rows, a message per batch. ``parts``: parts of batches and errors, to the shards. ``margins``: the rest
    of a batch and weights of shards, to the reducer. ``credits``: the last batch predicted, to the splitter.
    ``versions``: pieces of models and verdicts. ``dealt``, by samples: batches and weights of shards, to the workers,
    whose partition w is the mailbox of worker w.
    """

    batches: str
    parts: str
    margins: str
    credits: str
    versions: str
    dealt: str = ""


@dataclass(frozen=True, slots=True)
class Sharding:
    """A model on ``shards`` shards, which exchange messages of at most ``max_message_bytes`` in ``topics``.

    Batches have at most ``batch_rows`` rows. A batch is predicted when those up to ``staleness`` before it are applied;
    None is no bound. With ``workers`` the model is by samples: each batch is dealt to one of them, which predicts it
    and sends the shards its gradients. With 0 it is by features: the reducer predicts all.
    """

    topics: ShardTopics
    shards: int
    staleness: int | None = 0
    batch_rows: int = 1024
    max_message_bytes: int = 1 << 20
    workers: int = 0

    @property
    def placement(self) -> Placement:
        """The shards and the workers."""
        return Placement(self.shards, self.workers)

    @property
    def books(self) -> str:
        """The name of the gatherer's position and accounts: another model's is none of this one's."""
        return f"trainer.{self.topics.batches}"

    @property
    def window(self) -> int:
        """How many batches the splitter may be ahead of the last that was predicted."""
        return AHEAD * 4 if self.staleness is None else AHEAD + self.staleness

    def box_of(self, message: BatchMessage) -> tuple[str, int]:
        """The topic and the partition that ``message`` goes to; errors go to shards that they do not name."""
        match message:
            case BatchPart():
                return self.topics.parts, message.shard
            case ModelPiece() | Verdict():
                return self.topics.versions, 0
            case BatchSamples():
                return self.topics.dealt, worker_of(message.number, self.workers)
            case PartWeights() if self.workers:
                return self.topics.dealt, worker_of(message.number, self.workers)
            case _:
                return self.topics.margins, 0


def worker_folder(checkpoints: Path, worker: int, workers: int) -> Path:
    """The folder of the checkpoints of a worker that computes gradients."""
    return checkpoints / f"gradients-{worker}-of-{workers}"


def shard_folder(checkpoints: Path, shard: int, shards: int) -> Path:
    """The folder of a shard's own checkpoints."""
    return checkpoints / f"shard-{shard}-of-{shards}"
