"""The topics between the stages of a model on shards, and how far its batches may be ahead of one another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["AHEAD", "CREDIT_EVERY_US", "ShardTopics", "Sharding", "shard_folder"]

#: Batches that the splitter may be ahead of the last predicted one beyond the staleness: what keeps shards at work.
AHEAD = 16
#: How often the reducer says how far it is although nothing has changed: credits need not be kept for much longer.
CREDIT_EVERY_US = 60_000_000


@dataclass(frozen=True, slots=True)
class ShardTopics:
    """Topics of one partition each, but for ``parts``, whose partition p is the mailbox of shard p.

    ``batches``: rows, a message per batch. ``parts``: parts of batches and errors, to the shards. ``margins``: the rest
    of a batch and weights of shards, to the reducer. ``credits``: the last batch predicted, to the splitter.
    ``versions``: pieces of models and verdicts.
    """

    batches: str
    parts: str
    margins: str
    credits: str
    versions: str


@dataclass(frozen=True, slots=True)
class Sharding:
    """A model on ``shards`` shards, which exchange messages of at most ``max_message_bytes`` in ``topics``.

    Batches have at most ``batch_rows`` rows. A batch is predicted when those up to ``staleness`` before it are applied;
    None is no bound.
    """

    topics: ShardTopics
    shards: int
    staleness: int | None = 0
    batch_rows: int = 1024
    max_message_bytes: int = 1 << 20

    @property
    def books(self) -> str:
        """The name of the gatherer's position and accounts: another model's is none of this one's."""
        return f"trainer.{self.topics.batches}"

    @property
    def window(self) -> int:
        """How many batches the splitter may be ahead of the last that was predicted."""
        return AHEAD * 4 if self.staleness is None else AHEAD + self.staleness


def shard_folder(checkpoints: Path, shard: int, shards: int) -> Path:
    """The folder of a shard's own checkpoints."""
    return checkpoints / f"shard-{shard}-of-{shards}"
