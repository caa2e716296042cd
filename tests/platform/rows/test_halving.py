"""Halving finds exactly the items that fail by themselves; what is no item's fault is raised."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import EngineFailed, StoreError
from dovetail.platform.rows.halving import halved, one_by_one

FAULTLESS = [MemoryError(), EngineFailed("out of memory"), StoreError("away"), OSError(errno.ENOSPC, "no space")]


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_the_bad_are_found_and_the_good_are_made_together(count: int, bad: set[int]) -> None:
    calls = []

    def make(some: Sequence[int]) -> list[int]:
        calls.append(len(some))
        if bad & set(some):
            raise ValueError(min(bad & set(some)))
        return list(some)

    items = range(count)
    good, failed = halved(items, make)
    assert [item for _, made in good for item in made] == [item for item in items if item not in bad]
    assert [(item, str(error)) for item, error in failed] == [(item, str(item)) for item in items if item in bad]
    assert len(calls) <= 1 + 2 * len(failed) * count.bit_length()
    alone, failed_alone = one_by_one(items, lambda item: make([item]))
    assert [item for item, _ in alone] == [item for item in items if item not in bad]
    assert [item for item, _ in failed_alone] == [item for item, _ in failed]


@pytest.mark.parametrize("error", FAULTLESS, ids=lambda error: type(error).__name__)
def test_what_is_no_items_fault_is_raised(error: Exception) -> None:
    def make(_some: object) -> None:
        raise error

    with pytest.raises(type(error)):
        halved([1, 2, 3], make)
    with pytest.raises(type(error)):
        one_by_one([1, 2, 3], make)
