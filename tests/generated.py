"""How many generated cases a property is tried with, by hypothesis' profile, which ``HYPOTHESIS_PROFILE`` chooses.

``default`` (`make test`) tries 25, or as many as a test says, new ones each time, and begins with what has failed
before. ``ci`` (`.ci/run`) tries a third of these, two at least, always the same ones, so that a change is refused for
what it did and not for what was drawn. ``nightly`` (`make nightly`) draws 80 times as many, new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings

__all__ = ["load_profile", "some", "tries"]

T = TypeVar("T")

_CASES = 25
_CI = 8
_NIGHTLY = 2_000


def load_profile() -> None:
    """Register the profiles and load the chosen one; before test modules are imported, which call :func:`tries`."""
    common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("default", common, max_examples=_CASES)
    settings.register_profile("ci", common, max_examples=_CI, derandomize=True, database=None)
    settings.register_profile("nightly", common, max_examples=_NIGHTLY)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def tries(number: int) -> int:
    """How many examples a property is tried with that is tried with ``number`` when nobody asks for more."""
    return max(min(number, 2), number * settings().max_examples // _CASES)


def some(cases: Sequence[T]) -> Sequence[T]:
    """The ``cases`` of a long list that are tried: all, but a third, evenly spread, by profile ``ci``."""
    return cases[:: max(1, round(_CASES / settings().max_examples))]
