"""Decides which slots may learn: values seen often enough are admitted, values not seen for days expire.

In a stream whose ids never stop growing, most values are seen once and never again. Off by default; when on, the state
is part of the checkpoint and, like everything the trainer does, depends on the order of rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Bool, Float32, Int64, UInt32
from dovetail.trainer.optimizers.optimizer import WEIGHT
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.samples.hashing import hash_pairs

__all__ = ["SlotPolicy", "SlotState"]

UInt16 = npt.NDArray[np.uint16]
_DAY_US = 86_400_000_000
_MOST = 65_535
_NEVER = 0


@dataclass(frozen=True, slots=True)
class SlotPolicy:
    """Rules of admission and expiry. The bias is exempt from both.

    Until a slot is admitted its input is absent: it neither predicts nor trains. ``admit_after`` n admits it with its
    n-th appearance; ``admit_probability`` p admits it with chance p at each appearance (Poisson inclusion, McMahan et
    al., KDD 2013, section 5), which needs no exact counts: a value is in after 1/p appearances on average. The chance
    is a hash of the slot and the number of the row, so it is the same in every run.

    ``expire_days`` n forgets a slot, record and admission, when it has not been trained for more than n days of event
    time by column ``time``. Days are UTC; the sweep happens before the first row of each new newest day.

    :raises ConfigError: a value is out of range, two ways of admission are given, or expiry without a time column.
    """

    #: 0 or 1 admits at once.
    admit_after: int = 0
    #: 0 is off.
    admit_probability: float = 0.0
    #: 0 never forgets.
    expire_days: int = 0
    #: The samples' event-time column.
    time: str = "request_time"

    def __post_init__(self) -> None:
        if not 0 <= self.admit_after <= _MOST or not 0.0 <= self.admit_probability <= 1.0:
            raise ConfigError(
                f"slots: admit_after = {self.admit_after} or admit_probability = {self.admit_probability} is out of "
                f"bounds; write 0…{_MOST} and 0…1"
            )
        if self.admit_after > 1 and self.admit_probability:
            raise ConfigError("slots: admit_after and admit_probability are two ways of admission; remove one")
        if not 0 <= self.expire_days <= 10_000 or (self.expire_days and not self.time):
            raise ConfigError(
                f"slots: expire_days = {self.expire_days} is out of bounds, or without a time column ({self.time!r}); "
                "write 0…10000"
            )

    @property
    def admits_all(self) -> bool:
        """No admission rule."""
        return self.admit_after <= 1 and not self.admit_probability

    @property
    def idle(self) -> bool:
        """Neither rule is on."""
        return self.admits_all and not self.expire_days

    @property
    def reads(self) -> str:
        """The column that days are taken from; empty where nothing expires."""
        return self.time if self.expire_days else ""

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values; part of every checkpoint."""
        return asdict(self)


class SlotState:
    """Appearances and last day by slot, for the rules of one :class:`SlotPolicy`.

    Takes 4 bytes per slot. A count that reaches 65,535 means admitted.
    """

    def __init__(self, policy: SlotPolicy, bits: int) -> None:
        self.policy = policy
        size = 1 if policy.idle else 1 << bits
        self._counts = np.zeros(size, np.uint16)
        # Days since 1970-01-01, 0 for never.
        self._days = np.zeros(size, np.uint16)
        self._newest = 0
        #: Slots admitted, and slots forgotten, ever.
        self.admitted, self.expired = 0, 0

    @property
    def newest_day(self) -> int:
        """The newest day trained on, in days since 1970-01-01 UTC; 0 before the first."""
        return self._newest

    def admit_weights(self, records: Float32) -> None:
        """Admit every slot that has a weight: those of a model training starts from."""
        if not self.policy.idle:
            self._counts[records[:, WEIGHT] != 0] = _MOST

    def days(self, times_us: Int64) -> Int64:
        """The day of each time: int64 [n]. Times before 1970 and after 2149 count as the first and last day."""
        clipped: Int64 = np.clip(times_us // _DAY_US, 1, _MOST)
        return clipped

    def boundaries(self, days: Int64) -> list[int]:
        """Rows before which a sweep is due, where a new newest day begins; expiry must be on."""
        newest = np.maximum.accumulate(np.concatenate(([self._newest], days)))
        return [int(row) for row in np.flatnonzero(np.diff(newest) > 0)]

    def sweep(self, day: int) -> UInt32:
        """Make ``day`` the newest and forget the admission of what was not trained for too long.

        Returns the slots whose records are to be forgotten, too, ascending: uint32 [n].
        """
        self._newest = max(self._newest, day)
        stale = (self._days != _NEVER) & (self._newest - self._days.astype(np.int64) > self.policy.expire_days)
        self._counts[stale] = 0
        self._days[stale] = _NEVER
        forgotten: UInt32 = np.flatnonzero(stale).astype(np.uint32)
        self.expired += len(forgotten)
        return forgotten

    def admit(self, encoded: Encoded, weights: Float32, first_row: int, day: int) -> None:
        """Count the inputs of rows ``first_row`` … and make absent, in place, those whose slots are not admitted.

        Rows of weight 0 count nothing, and see what is admitted by then.
        """
        slots, values = encoded
        policy = self.policy
        chances: Bool = np.ones((0, 0), np.bool_)
        threshold = max(policy.admit_after, 1)
        if policy.admit_probability:
            threshold = _MOST
            rows = np.arange(first_row, first_row + len(slots), dtype=np.uint64)
            seeds = slots.ravel().astype(np.uint64)
            draws = hash_pairs(seeds, np.repeat(rows, slots.shape[1]))
            limit = min(int(policy.admit_probability * 2.0**64), 2**64 - 1)
            chances = (draws <= np.uint64(limit)).reshape(slots.shape)
        self.admitted += _admit(slots, values, weights, self._counts, self._days, chances, threshold, day)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as arrays: only slots that have any."""
        slots = np.flatnonzero((self._counts != 0) | (self._days != 0))
        return {
            "slots": slots.astype(np.uint32),
            "counts": self._counts[slots],
            "days": self._days[slots],
            "numbers": np.array([self._newest, self.admitted, self.expired], np.int64),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the state whose :meth:`state` was ``state``."""
        self._counts[:] = 0
        self._days[:] = _NEVER
        self._counts[state["slots"]] = state["counts"]
        self._days[state["slots"]] = state["days"]
        self._newest, self.admitted, self.expired = state["numbers"].tolist()


@compiled_as_ieee
def _admit(
    slots: UInt32,
    values: Float32,
    weights: Float32,
    counts: UInt16,
    days: UInt16,
    chances: Bool,
    threshold: int,
    day: int,
) -> int:
    admitted = 0
    n, k = slots.shape
    for i in range(n):
        # The last input is the bias.
        for j in range(k - 1):
            if values[i, j] == 0:
                continue
            s = slots[i, j]
            if weights[i] != 0:
                days[s] = day
                if counts[s] < threshold:
                    by_chance = len(chances) > 0
                    if not by_chance:
                        counts[s] += np.uint16(1)
                    elif chances[i, j]:
                        counts[s] = np.uint16(65_535)
                    admitted += counts[s] >= threshold
            if counts[s] < threshold:
                values[i, j] = np.float32(0)
    return admitted
