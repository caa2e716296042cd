"""How many crashes a test of crashes tries.

``DOVETAIL_KILL_SEEDS`` is how many of each kind: 2 if not said, 1 in `.ci/run`, 40 in `make nightly`, which for most
kinds is all there are. No kind is ever left out.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["SEEDS", "some"]

T = TypeVar("T")

#: Of each kind of crash, so many.
SEEDS = max(1, int(os.environ.get("DOVETAIL_KILL_SEEDS", "2")))


def some(moments: Sequence[T], kind: str) -> list[T]:
    """As many of ``moments`` as are tried, in their order; the same ones for the same ``kind``."""
    chosen = random.Random(kind).sample(range(len(moments)), min(SEEDS, len(moments)))
    return [moments[number] for number in sorted(chosen)]
