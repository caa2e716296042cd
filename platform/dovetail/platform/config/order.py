"""``[labels.order]``: samples shuffled before they are trained on."""

from __future__ import annotations

from pydantic import Field

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Section

__all__ = ["OrderConfig"]


class OrderConfig(Section):
    """Order repair of the primary samples before the trainer: see ``dovetail.joiners.order``."""

    block_rows: int = Field(default=1_000, ge=1, le=500_000)
    #: Of event time: a block ends when its requests span this much.
    max_delay: DurationUs = Field(default=3_600_000_000, gt=0)
    seed: int = Field(default=0, ge=0)
