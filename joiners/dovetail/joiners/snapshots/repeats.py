"""Requests whose id came before: a retry is the request it repeats, and not another one.

Whether a request is a repetition is decided by the log of its partition alone: its id was there before, and the stream
knew of that one no longer ago, by event time, than the declared window. A repetition is answered like the first: with
the scores of its snapshot, or as a dead letter where the first was refused. It gives no snapshot and no samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.snapshots.units import Request
from dovetail.platform.rows.identity.repetitions import find_repetitions
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.stores.registry.remembered import RememberedRequest, RequestMemory

__all__ = ["NO_REPEATS", "Repeats", "find_repeats"]


class Repeats:
    """The requests of a poll that repeat another, and those that may be repeated."""

    def __init__(
        self,
        firsts: Mapping[str, tuple[Request, int]] | None = None,
        known: Mapping[Request, RememberedRequest] | None = None,
        here: Mapping[Request, Request] | None = None,
    ) -> None:
        """``firsts``: by id, position and time (µs) of those to remember. ``known`` and ``here``: the repetitions of
        remembered requests, and of others in the same poll.
        """
        self._firsts, self._known, self._here = firsts or {}, known or {}, here or {}

    @property
    def requests(self) -> set[Request]:
        """The repetitions."""
        return {*self._known, *self._here}

    def first_of(self, answered: Collection[Request]) -> dict[Request, tuple[Request, bool]]:
        """By repetition: the request it repeats, and whether that was answered; ``answered``, of this poll's."""
        before = {at: ((first.offset, first.row), first.answered) for at, first in self._known.items()}
        return before | {at: (first, first in answered) for at, first in self._here.items()}

    def memory(self, answered: Collection[Request], forgotten_us: int) -> RequestMemory:
        """The change of memory that is committed with the poll; those known before ``forgotten_us`` are forgotten."""
        kept = {name: RememberedRequest(us, *at, at in answered) for name, (at, us) in self._firsts.items()}
        return RequestMemory({name: of for name, of in kept.items() if of.known_us >= forgotten_us}, forgotten_us)


NO_REPEATS = Repeats()


def find_repeats(
    requests: pa.Table,
    known_us: npt.NDArray[np.int64],
    within_us: int,
    recall: Callable[[Sequence[str]], Mapping[str, RememberedRequest]],
    itself: Iterable[Request] = (),
) -> Repeats:
    """The repetitions among ``requests`` (with own positions, in log order).

    ``known_us``: when the stream knew of each, int64 [n] µs, never falling. ``recall`` gives the remembered ones of
    some ids. ``itself``: requests that have been answered as they are, whatever came before them.
    """
    names: list[str] = requests.column("request_id").cast(pa.string()).to_pylist()
    places = list(zip(*(requests.column(name).to_pylist() for name in OWN_COLUMNS[1:]), strict=True))
    remembered = recall(sorted(set(names)))
    rows = zip(names, places, known_us.tolist(), strict=True)
    return Repeats(*find_repetitions(rows, within_us, remembered, set(itself)))
