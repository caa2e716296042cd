"""The hidden truth of the simulated shop: who likes what, and how that changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["World", "make_world"]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

_FACTORS = 6
_SEGMENTS = 6
_CATEGORIES = 12
_BRANDS = 30


@dataclass(frozen=True)
class World:
    """Latent vectors have ``f`` factors; ``u`` users, ``i`` items, ``d`` days. None of it is in the log as it is."""

    #: Probability that a request is this user's. float64 [u]
    activity: _Floats
    #: int64 [u]
    segment: _Ints
    #: Taste on day 0, and where it moves in one day. float64 [u, f]
    taste_start: _Floats
    taste_per_day: _Floats
    #: How often an item is a candidate, unnormalised. float64 [i]
    popularity: _Floats
    #: int64 [i]
    category: _Ints
    brand: _Ints
    #: float64 [i, f]
    item_vector: _Floats
    #: Appeal to everybody, in log-odds, and what the shop publishes of it. float64 [d, i]
    quality: _Floats
    score: _Floats
    #: int64 [d, i]
    price_cents: _Ints

    segments: ClassVar[int] = _SEGMENTS
    categories: ClassVar[int] = _CATEGORIES
    brands: ClassVar[int] = _BRANDS

    def taste(self, user: _Ints, day: _Floats) -> _Floats:
        """The taste of ``user[k]`` at ``day[k]``, fractions of days included. float64 [k, f]"""
        moved: _Floats = self.taste_start[user] + day[:, None] * self.taste_per_day[user]
        return moved


def make_world(rng: np.random.Generator, *, users: int, items: int, days: int) -> World:
    """A world drawn from ``rng``. Taste clusters by segment and items by category: that is what can be learned."""
    segment = rng.integers(0, _SEGMENTS, users)
    centre = rng.normal(0, 0.8, (_SEGMENTS, _FACTORS))
    drift = rng.normal(0, 0.25, (_SEGMENTS, _FACTORS))
    category = rng.integers(0, _CATEGORIES, items)
    brand = rng.integers(0, _BRANDS, items)
    kind = rng.normal(0, 0.5, (_CATEGORIES, _FACTORS))
    steps = rng.normal(0, 0.25, (days, items))
    steps[0] = rng.normal(0, 0.8, items) + rng.normal(0, 0.3, _BRANDS)[brand]
    quality = np.cumsum(steps, axis=0)
    base_price = rng.lognormal(np.log(2_500), 0.7, items)
    weight = rng.lognormal(0, 1.0, users)
    return World(
        activity=weight / weight.sum(),
        segment=segment,
        taste_start=centre[segment] + rng.normal(0, 0.4, (users, _FACTORS)),
        taste_per_day=drift[segment] + rng.normal(0, 0.1, (users, _FACTORS)),
        popularity=rng.lognormal(0, 0.8, items),
        category=category,
        brand=brand,
        item_vector=kind[category] + rng.normal(0, 0.25, (items, _FACTORS)),
        quality=quality,
        score=quality + rng.normal(0, 0.5, (days, items)),
        # Day to day a price moves by a few percent; never below one cent, never beyond int32.
        price_cents=np.clip(base_price * rng.uniform(0.93, 1.07, (days, items)), 1, 2**31 - 1).astype(np.int64),
    )
