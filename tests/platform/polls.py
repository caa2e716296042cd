"""Polls made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dovetail.platform.stage import Poll


def poll_of(
    values: Sequence[bytes | None],
    *,
    topic: str = "topic",
    partition: int = 0,
    first: int = 0,
    timestamps_ms: Sequence[int] | None = None,
    headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
) -> Poll:
    """A poll of consecutive messages from offset ``first``."""
    n = len(values)
    return Poll(
        topic,
        partition,
        np.arange(first, first + n, dtype=np.int64),
        np.array(timestamps_ms or [0] * n, dtype=np.int64),
        [None] * n,
        list(values),
        list(headers or [()] * n),
    )
