"""The collector of a model by samples has the predictions of all workers in the order of batches."""

from __future__ import annotations

from dovetail.trainer.sharded.dealt_rows import BatchPredictions

__all__ = ["Collector"]


class Collector:
    """Gives out the predictions of batches in their order, the first ones of each, from batch ``reduced`` + 1 on."""

    def __init__(self, reduced: int = 0) -> None:
        #: The last batch whose predictions were given out.
        self.reduced = reduced
        self._made: dict[int, BatchPredictions] = {}

    def take(self, message: BatchPredictions) -> list[BatchPredictions]:
        """Take the predictions of a batch in; returns those whose turn it is."""
        if message.number > self.reduced:
            self._made.setdefault(message.number, message)
        done = []
        while (made := self._made.pop(self.reduced + 1, None)) is not None:
            self.reduced += 1
            done.append(made)
        return done
