"""The splitter of a model by samples: batches are dealt to workers in turns, which decode and encode them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.rows.wire import decode_arrow
from dovetail.platform.stage import Poll
from dovetail.trainer.preparing import Preparation
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.sharded.batch_messages import BatchMessage
from dovetail.trainer.sharded.dealt_rows import BatchSamples
from dovetail.trainer.sharded.stages.batch_state import BatchState
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["DealState"]


class DealState(BatchState):
    """Batches dealt to the workers of ``sharding`` in turns, each as the message that it came in.

    Of a row nothing is read here but its position, and what all rows before it have to be known for: the moments of
    standardised inputs. Which slots are admitted would be that, too: a policy of slots cannot be had by samples.

    :raises ConfigError: there is one.
    """

    def __init__(
        self, recipe: ShardedRecipe, sharding: Sharding, samples: SampleTopic, publish_every: int, *, delayed: bool
    ) -> None:
        super().__init__(recipe, sharding, samples, publish_every, delayed=delayed)
        if not recipe.recipe.slots.idle:
            raise ConfigError(
                "slots: which slots are admitted or forgotten depends on all samples before, and the workers of a "
                "model by samples encode theirs by themselves; remove model.slots, or train by features"
            )
        self._moving = _standardised(recipe, self.preparation)
        self._read = frozenset(SOURCE_COLUMNS) | (frozenset() if self._moving is None else self._moving.reads)
        # The message that rows are of, and how many it has.
        self._content, self._count = b"", 0

    def decode(self, poll: Poll) -> pa.Table:
        rows = decode_arrow(poll, columns=self._read)
        self._content, self._count = poll.values[0] or b"", rows.num_rows
        return rows

    def messages(self, rows: pa.Table) -> list[BatchMessage]:
        """The batch of ``rows``, which are of the message decoded last, to the worker whose turn it is.

        :raises WireError: a standardised input, or what says how it weighs, is absent or of a wrong type.
        """
        before = self.preparation.moments.copy()
        if self._moving is not None:
            for _ in self._moving.prepare(rows):
                pass  # which counts the rows into the moments
        self.preparation.prepared += rows.num_rows
        self.number += 1
        chosen = None if rows.num_rows == self._count else rows.column("_row").to_numpy()
        return [BatchSamples(self.number, self._content, chosen, before, self.version_due())]

    def marked(self, version: int) -> list[BatchMessage]:
        """As :meth:`messages`, of no rows."""
        self.number += 1
        return [BatchSamples(self.number, b"", np.empty(0, np.int32), self.preparation.moments.copy(), version)]


def _standardised(recipe: ShardedRecipe, preparation: Preparation) -> Preparation | None:
    """A preparation of the standardised inputs alone, which moves the moments of ``preparation``; None without any."""
    inputs = [spec for spec in preparation.encoder.inputs if spec.kind == "standardised"]
    if not inputs:
        return None
    return recipe.preparation(Encoder(inputs, bits=1), preparation.moments)
