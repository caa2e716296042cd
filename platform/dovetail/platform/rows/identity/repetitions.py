"""Rows whose id was there before, no longer ago than a window: one rule for requests and for events.

The log of a partition alone decides. A row counts from when the stream knew of it: the newest time in its partition up
to it. A repetition does not make the window longer: it is counted from the first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Found", "Known", "Place", "find_repetitions"]

#: Offset and row of a row in its partition.
Place = tuple[int, int]


class Known(Protocol):
    """A row of before, as it is remembered."""

    @property
    def known_us(self) -> int:
        """When the stream knew of it, in µs."""


K = TypeVar("K")
R = TypeVar("R", bound=Known)


class Found(NamedTuple, Generic[K, R]):
    """Rows that are the first of their id, and repetitions.

    ``firsts``: by id, place and time (µs) of the row to remember. ``known``: by place, the remembered row that is
    repeated; ``here``: by place, the place of the row among those given that is repeated.
    """

    firsts: Mapping[K, tuple[Place, int]]
    known: Mapping[Place, R]
    here: Mapping[Place, Place]


def find_repetitions(
    rows: Iterable[tuple[K, Place, int]],
    within_us: int,
    remembered: Mapping[K, R],
    itself: Collection[Place] = (),
) -> Found[K, R]:
    """The repetitions among ``rows``, each given as id, place and known time (µs, never falling), in log order.

    ``itself``: rows that count as they are, whatever came before them.
    """
    firsts: dict[K, tuple[Place, int]] = {}
    known: dict[Place, R] = {}
    here: dict[Place, Place] = {}
    for name, at, us in rows:
        first, before = firsts.get(name), remembered.get(name)
        if at not in itself and first is not None and us - first[1] <= within_us:
            here[at] = first[0]
        elif at not in itself and first is None and before is not None and us - before.known_us <= within_us:
            known[at] = before
        else:
            firsts[name] = at, us
    return Found(firsts, known, here)
