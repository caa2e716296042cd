"""The first half of training: rows are encoded, and it is decided which of their slots may learn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.trainer.arithmetic import Float32, Float64, UInt32
from dovetail.trainer.samples.encoding import Encoded, Encoder, Room
from dovetail.trainer.samples.holdout import NOTHING_HELD_OUT, Holdout
from dovetail.trainer.samples.label_columns import Absent, column_of_numbers, labels_and_weights
from dovetail.trainer.slots import SlotPolicy, SlotState

__all__ = ["Preparation", "Prepared"]

# Rows encoded, then trained on, while what they were encoded to is still in a cache. Fewer, and the calls per column
# show: at 4,096 rows of 39 inputs training from columns takes 10 % longer.
_BLOCK = 16_384
_NONE = np.empty(0, np.uint32)


class Prepared(NamedTuple):
    """Rows ready to be trained on, and then evaluated."""

    #: Their place in the table that they are of.
    rows: range
    #: All their columns, and whether they are held out if any may be.
    table: pa.Table
    #: Valid until the next part is asked for.
    encoded: Encoded
    #: float32 [n] each: labels, weights in the evaluation, and weights in training, 0 of what is held out.
    labels: Float32
    weights: Float32
    learnt: Float32
    #: Slots whose records are forgotten before these rows are predicted, uint32.
    forgotten: UInt32


class Preparation:
    """Encodes rows in order, with moments of standardised inputs and the slots admitted; it knows no weights.

    State after a row depends on the rows before it and their order alone, not on how they are cut into tables.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        weight: str | None = None,
        absent: Absent = "refuse",
        slots: SlotPolicy | None = None,
        holdout: Holdout = NOTHING_HELD_OUT,
        moments: Float64 | None = None,
        prepared: int = 0,
    ) -> None:
        """``prepared``: how many rows there were before."""
        self.encoder = encoder
        self.label = label
        self.weight = weight
        self.absent: Absent = absent
        self.holdout = holdout
        self.slots = SlotState(slots or SlotPolicy(), encoder.bits)
        self.moments = encoder.new_moments() if moments is None else moments
        #: Rows prepared, ever.
        self.prepared = prepared
        self._room: Room | None = None

    @property
    def reads(self) -> frozenset[str]:
        """The columns of rows that are read, where they are there."""
        inputs = {name for spec in self.encoder.inputs for name in spec.reads}
        others = {self.label, self.weight or "", self.holdout.reads, self.slots.policy.reads} - {""}
        return frozenset(inputs | others)

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values; part of every checkpoint."""
        return {
            "encoder": self.encoder.describe(),
            "fingerprint": self.encoder.fingerprint,
            "label": self.label,
            **({} if self.absent == "refuse" else {"absent": self.absent}),
            "weight": self.weight,
            "slots": self.slots.policy.describe(),
            **({"holdout": self.holdout.share} if self.holdout.share else {}),
        }

    def prepare(self, table: pa.Table, *, whole: bool = False) -> Iterator[Prepared]:
        """The rows of ``table`` in parts, in order; ``whole``: in as few as there are days that slots expire by.

        :raises WireError: label, weight, time, request or input columns are absent, of a wrong type, or label, weight
            or time is NULL.
        """
        labels, weights = labels_and_weights(table, self.label, self.weight, self.absent)
        table, held = self.holdout.mark(table)
        learnt_weights = np.where(held, np.float32(0), weights)
        for rows, day, forgotten in self._parts(table, whole=whole):
            cut = slice(rows.start, rows.stop)
            part, learnt = table.slice(rows.start, len(rows)), learnt_weights[cut]
            encoded = self.encoder.encode(part, self.moments, learnt, self._room_for(part))
            if not self.slots.policy.idle:
                self.slots.admit(encoded, learnt, self.prepared, day)
            self.prepared += len(rows)
            yield Prepared(rows, part, encoded, labels[cut], weights[cut], learnt, forgotten)

    def _parts(self, table: pa.Table, *, whole: bool) -> Iterator[tuple[range, int, UInt32]]:
        """The rows of ``table`` by days, see :meth:`_days`, and unless ``whole`` in blocks."""
        for rows, day, forgotten in self._days(table):
            step = max(1, len(rows) if whole else _BLOCK)
            for start in range(rows.start, max(rows.start + 1, rows.stop), step):
                gone = forgotten if start == rows.start else _NONE
                yield range(start, min(start + step, rows.stop)), day, gone

    def _room_for(self, part: pa.Table) -> Room | None:
        """Memory to encode ``part`` in, kept from one part to the next; none for what is larger than a block."""
        rows = part.num_rows
        if rows <= _BLOCK and (self._room is None or self._room.rows < rows):
            self._room = self.encoder.room(min(_BLOCK, 2 * rows))
        return self._room

    def _days(self, table: pa.Table) -> Iterator[tuple[range, int, UInt32]]:
        """Rows cut where a new newest day begins, with that day and the slots that it forgets; all, with day 1, when
        nothing expires."""
        policy = self.slots.policy
        if not policy.expire_days:
            yield range(table.num_rows), 1, _NONE
            return
        days = self.slots.days(column_of_numbers(table, policy.time, "time").astype(np.int64))
        starts = self.slots.boundaries(days)
        for start, end in pairwise(sorted({0, *starts, table.num_rows})):
            forgotten = self.slots.sweep(int(days[start])) if start in starts else _NONE
            yield range(start, end), self.slots.newest_day, forgotten
