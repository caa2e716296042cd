"""The batches that the splitter has read: their rows by position, and the versions that were due after them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.stage import Outgoing, Poll
from dovetail.trainer.evaluating import part_of
from dovetail.trainer.models.container import Container
from dovetail.trainer.preparing import Preparation
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.sharded.batch_messages import BatchMessage
from dovetail.trainer.sharded.mailbox import posted
from dovetail.trainer.sharded.stages.kept_stage import Done
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["BatchState", "number_in"]

#: In the topic of batches, the header of a message that asks for a version although no row came: the rows in the last.
_ASKED = "dovetail-version-after"


class BatchState(ABC):
    """Batches up to the one numbered :attr:`number`: moments, slots admitted, and the rows that were there.

    A version is due after every ``publish_every`` rows, and numbered by how many times that was; ``delayed``, it is
    numbered by rows, and also due where a message asks for it. What becomes of a batch is a subclass' matter.
    """

    #: The number of the last batch.
    number: int

    def __init__(
        self, recipe: ShardedRecipe, sharding: Sharding, samples: SampleTopic, publish_every: int, *, delayed: bool
    ) -> None:
        self.preparation: Preparation = recipe.preparation()
        self.number = 0
        self.filter = SourceFilter()
        self.next = 0
        self._sharding = sharding
        self._samples = samples
        self._publish_every = publish_every
        self._delayed = delayed
        #: The rows that were there when the last version was due.
        self.versioned = 0

    @abstractmethod
    def messages(self, rows: pa.Table) -> list[BatchMessage]:
        """The messages of the next batch, or batches, of ``rows``, which are counted as prepared.

        The version that may be due after them is :meth:`version_due`.
        """

    @abstractmethod
    def marked(self, version: int) -> list[BatchMessage]:
        """The messages of a batch of nothing, after which there is ``version``: it changes no weight."""

    @property
    def position(self) -> int:
        """The offset to read on from."""
        return self.next

    def version_of(self, rows: int) -> int:
        """The version that is due after so many rows, or, if none is, the last one by count."""
        return rows if self._delayed else rows // self._publish_every

    def ask(self) -> Outgoing | None:
        """The message that asks for a version of the rows that are in none; None where there are no such rows."""
        if not self._delayed or self.preparation.prepared == self.versioned:
            return None
        return Outgoing(self._sharding.topics.batches, b"", partition=0, headers=((_ASKED, b"%d" % self.versioned),))

    def take(self, poll: Poll) -> Done:
        """Cut the rows of ``poll`` that are new: those of a message are a batch, or more where a version is due.

        :raises WireError: rows lack a column, or have one of a wrong type.
        :raises ModelError: an example does not fit the model.
        """
        done = Done()
        poll = poll.since(self.next)
        for offset, headers in zip(poll.offsets.tolist(), poll.headers, strict=True):
            if (asked := dict(headers).get(_ASKED)) is not None:
                # A version that was due since then, or was asked for twice, has the rows that this is about.
                if self._delayed and number_in(poll, asked) == self.versioned < self.preparation.prepared:
                    done.outgoing += self._posted(self.marked(self._due()))
                self.next = offset + 1
                continue
            rows = self.decode(poll.since(offset).before(offset + 1))
            rows = rows.filter(pa.array(self.filter.admit(rows)))
            done.samples += rows.num_rows
            while rows.num_rows:
                room = self._publish_every - self.preparation.prepared % self._publish_every
                done.outgoing += self._posted(self.messages(rows.slice(0, room)))
                rows = rows.slice(room)
            self.next = offset + 1
        return done

    def decode(self, poll: Poll) -> pa.Table:
        """The rows of one message with own and source positions, and what :meth:`messages` reads of them."""
        return self._samples.decode(poll)

    def version_due(self) -> int:
        """The version that is the one after the rows prepared; 0 where that is none."""
        return 0 if self.preparation.prepared % self._publish_every else self._due()

    def _due(self) -> int:
        self.versioned = self.preparation.prepared
        return self.version_of(self.versioned)

    def _posted(self, messages: list[BatchMessage]) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        for message in messages:
            outgoing += posted(*self._sharding.box_of(message), message, self._sharding.max_message_bytes)
        return outgoing

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        values = {
            "number": self.number, "prepared": self.preparation.prepared, "versioned": self.versioned,
            "filter": sorted(self.filter.state.items()),
        }  # fmt: skip
        slots = {f"slots_{name}": array for name, array in self.preparation.slots.state().items()}
        return values, {"moments": self.preparation.moments.copy(), **slots}

    def restore(self, stored: Container) -> None:
        """Become the state whose :meth:`image` was stored."""
        values, arrays = stored.header["state"], stored.arrays
        self.number, self.preparation.prepared = values["number"], values["prepared"]
        # Before there were others, versions were due after multiples only.
        self.versioned = values.get("versioned", values["prepared"] - values["prepared"] % self._publish_every)
        self.preparation.moments[...] = arrays["moments"]
        self.preparation.slots.restore(part_of(arrays, "slots"))
        self.filter = SourceFilter(dict(values["filter"]))
        self.next = stored.header["position"]


def number_in(poll: Poll, value: bytes | None) -> int:
    """The number of batches or rows that a message of ``poll`` has as text.

    :raises WireError: it has none.
    """
    try:
        return int(value or b"")
    except ValueError as error:
        raise WireError(
            f"{poll.topic}: {value!r} is no number of batches or rows; only Dovetail may write to this topic"
        ) from error
