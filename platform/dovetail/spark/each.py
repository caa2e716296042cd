"""A function for some items, a task each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dovetail.spark.frames import RESULT, Frame
from dovetail.spark.sent import items_of, told

__all__ = ["Each"]


@dataclass(frozen=True, slots=True)
class Each:
    """The task: calls ``function`` for its items, and gives the results, each with its item's number as ``a``."""

    function: Callable[[Any], Any]
    items: Sequence[Any]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(0, self._frames(given))

    def _frames(self, given: Iterator[pa.RecordBatch]) -> Iterator[Frame]:
        for number, item in items_of(given, self.items):
            yield Frame.of(0, RESULT, self.function(item), a=number)
