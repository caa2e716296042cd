"""The population stability index: how far a distribution has moved from a reference, and what chance explains of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["Shift", "merged", "shift"]

#: Bins of a number, of about equal mass in the reference, and values of a category that stand alone.
_BINS, _VALUES = 10, 20

Histogram = Mapping[str | int | None, int]


class Shift(float):
    """A population stability index, as a number; ``chance`` is how large one may be between samples of one thing."""

    chance: float

    def __new__(cls, index: float, chance: float) -> Shift:
        made = super().__new__(cls, index)
        made.chance = chance
        return made


def merged(histograms: Iterable[Histogram]) -> Counter[str | int | None]:
    """The histogram of all rows of several."""
    total: Counter[str | int | None] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return total


def shift(reference: Histogram, found: Histogram, *, number: bool) -> Shift | None:
    """The index Σ (p - q) ln(p / q) of ``found`` to ``reference`` over bins; None where either has no row.

    NULL is a bin; numbers are in ten of equal mass in the reference, categories in its 20 most frequent values and the
    rest. Half a row is added to each bin, so that an empty one does not make it infinite (Siddiqi, "Credit Risk
    Scorecards", 2006, with 0.1 and 0.25 as marks). Between two samples of n and m rows of one distribution the index
    is about (1/n + 1/m) χ² of one degree less than bins (Yurdakul, "Statistical Properties of the Population Stability
    Index", 2018): ``chance`` is its mean and three deviations.
    """
    n, m = sum(reference.values()), sum(found.values())
    if not n or not m:
        return None
    of = _numbers(reference) if number else _categories(reference)
    bins = set(of.values()) | {-1}
    q, p = dict.fromkeys(bins, 0), dict.fromkeys(bins, 0)
    for histogram, counts in ((reference, q), (found, p)):
        for value, count in histogram.items():
            counts[_bin(of, value, number=number)] += count
    bins = {each for each in bins if q[each] or p[each]}
    size = len(bins)
    index = 0.0
    for each in bins:
        share, expected = (p[each] + 0.5) / (m + 0.5 * size), (q[each] + 0.5) / (n + 0.5 * size)
        index += (share - expected) * math.log(share / expected)
    freedom = size - 1
    return Shift(index, (freedom + 3 * math.sqrt(2 * freedom)) * (1 / n + 1 / m))


def _numbers(reference: Histogram) -> dict[str | int | None, int]:
    """The bin of each value there is in the reference: of equal mass, ascending; NULL has one of its own, -2."""
    known = sorted((value, count) for value, count in reference.items() if isinstance(value, int))
    total, seen = sum(count for _, count in known), 0
    of: dict[str | int | None, int] = {None: -2}
    for value, count in known:
        of[value] = min(_BINS - 1, (seen + count // 2) * _BINS // max(total, 1))
        seen += count
    return of


def _categories(reference: Histogram) -> dict[str | int | None, int]:
    often = sorted(((count, str(value)) for value, count in reference.items() if value is not None), reverse=True)
    return {None: -2, **{value: number for number, (_, value) in enumerate(often[:_VALUES])}}


def _bin(of: Mapping[str | int | None, int], value: str | int | None, *, number: bool) -> int:
    """The bin of a value; of a number that the reference has not, that of the next smaller one; of others the rest."""
    if value in of:
        return of[value]
    if not number or not isinstance(value, int):
        return -1
    below = [each for each in of if isinstance(each, int) and each < value]
    return of[max(below)] if below and max(below) != max((e for e in of if isinstance(e, int)), default=None) else -1
