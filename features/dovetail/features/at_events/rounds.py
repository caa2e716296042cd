"""When a row's value is to be looked up, and which rows are too old to have one.

*Value at an event*: the view's value for the row's key at the row's event time, over the rows of the row's own
partition up to the row itself. A row is *too old* when it is more than ``allowed_lateness`` behind the newest row of
its partition before it: no state answers it, so it has no value in either engine. Both are functions of the order of
rows in the partition, however they are put into messages, and whatever polls these are read in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.features.kernels.integers import INT64_MAX, INT64_MIN
from dovetail.features.kernels.words import Words
from dovetail.platform.compiling import compiled

__all__ = ["rounds_of", "too_old"]


def too_old(times: Words, newest: Words, lateness_us: int) -> npt.NDArray[np.bool_]:
    """A mask of the rows without a value.

    Args:
        times: event times. newest: the newest time of the partition up to each row, the row itself included.
    """
    return np.asarray(times < newest - lateness_us)


@compiled
def rounds_of(
    order: Words, codes: Words, times: Words, newest: Words, old: npt.NDArray[np.bool_], lateness: int
) -> Words:
    """A number per row, so that states that have taken in a key's rows up to round n give the values of those of n.

    Rows of one round and key are in ascending order of time, no two at the same, and none is so new that the state
    could not answer another of them any more. A row without key is in round 0.

    Args:
        order: the rows that have a key, by key and place in the partition.
        codes: the key of each row, by its number. times, newest, old: as :func:`too_old` has them.
    """
    rounds = np.zeros(codes.size, np.int64)
    number, highest, least = 0, INT64_MIN, INT64_MAX
    for i in range(order.size):
        row = order[i]
        if i == 0 or codes[order[i - 1]] != codes[row]:
            number, highest, least = 0, INT64_MIN, INT64_MAX
        elif times[row] <= highest or least < newest[row] - lateness:
            number, highest, least = number + 1, INT64_MIN, INT64_MAX
        highest = max(highest, times[row])
        if not old[row]:
            least = min(least, times[row])
        rounds[row] = number
    return rounds
