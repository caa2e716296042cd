"""Slots on a ring of shards: each in one place, few of them moved when a shard is added, none between old shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError
from dovetail.trainer.optimizers import AdaGrad
from dovetail.trainer.sharded.assembly import gather_records, place_again, records_of
from dovetail.trainer.sharded.ring import Ring, moves


@given(shards=st.integers(1, 40), bits=st.integers(8, 17))
def test_each_slot_is_in_one_place(shards: int, bits: int) -> None:
    ring = Ring(shards, bits)
    slots = np.arange(1 << bits, dtype=np.uint32)
    owners, local = ring.locals_of(slots)
    assert sum(ring.size(shard) for shard in range(shards)) == 1 << bits
    for shard in range(shards):
        mine = local[owners == shard]
        assert sorted(mine.tolist()) == list(range(ring.size(shard)))
        assert (ring.globals_of(shard, mine) == slots[owners == shard]).all()


@given(shards=st.integers(1, 30), more=st.integers(1, 5), bits=st.integers(9, 26))
def test_added_shards_take_slots_and_nothing_else_moves(shards: int, more: int, bits: int) -> None:
    before, after = Ring(shards, bits), Ring(shards + more, bits)
    moved = moves(before, after)
    assert all(move.source < shards <= move.target for move in moved)
    cells = np.concatenate([move.cells for move in moved]) if moved else np.empty(0, np.int64)
    assert len(np.unique(cells)) == len(cells) == int((before.owners != after.owners).sum())
    back = moves(after, before)
    assert {(m.target, m.source, *m.cells.tolist()) for m in back} == {(*m[:2], *m.cells.tolist()) for m in moved}


@pytest.mark.parametrize("shards", [1, 2, 4, 7, 20])
def test_memory_is_shared_evenly_at_2_26_slots(shards: int) -> None:
    ring = Ring(shards, 26)
    largest = max(ring.size(shard) for shard in range(shards))
    # Of what one process has: its share, and a tenth of one process. It is closer than that: a fifth of the share.
    assert largest / (1 << 26) <= 1 / shards + 0.1
    assert largest / (1 << 26) <= 1.2 / shards
    # All that a splitter keeps by slot.
    assert ring.owners.nbytes + ring.bases.nbytes <= 5 << 14


@given(before=st.integers(1, 9), after=st.integers(1, 9), bits=st.integers(8, 16))
def test_records_are_placed_again(before: int, after: int, bits: int) -> None:
    one, other = Ring(before, bits), Ring(after, bits)
    records = AdaGrad().new_records(bits)
    records[:, 0] = np.arange(len(records))
    placed = place_again(one, other, [records_of(one, shard, records) for shard in range(before)])
    whole = np.zeros_like(records)
    for shard, own in enumerate(placed):
        assert own.tobytes() == records_of(other, shard, records).tobytes()
        gather_records(other, shard, own, whole)
    assert whole.tobytes() == records.tobytes()


def test_a_ring_is_the_same_everywhere() -> None:
    # Shards on other machines count on it: a change of these is a change of every placed model.
    ring = Ring(3, 16)
    assert np.bincount(ring.owners).tolist() == [5083, 5560, 5741]
    assert ring.owners[:12].tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2]


def test_wrong_rings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2\^20 slots can be on 1 to 255 shards, not on 256"):
        Ring(256, 20)
    with pytest.raises(ConfigError, match=r"2\^2 slots can be on 1 to 4 shards, not on 0"):
        Ring(0, 2)
    with pytest.raises(ConfigError, match=r"2\^10 slots cannot be placed as one of 2\^11"):
        moves(Ring(2, 10), Ring(2, 11))
