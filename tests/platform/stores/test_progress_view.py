"""A view of progress knows at once what was committed here, and soon what others have committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.progress_view import ProgressView

AGE_S = 0.2


class Store:
    """One scope's progress, and a clock."""

    def __init__(self) -> None:
        self.stored: dict[int, Progress] = {}
        self.now = 0.0
        self.reads = 0
        self.during: Callable[[], None] = lambda: None

    def read(self, _scope: str) -> Mapping[int, Progress]:
        self.reads += 1
        found = dict(self.stored)
        self.during()
        return found

    def view(self) -> ProgressView:
        return ProgressView(self.read, max_age_s=AGE_S, seconds=lambda: self.now)


MOVES = st.tuples(st.sampled_from(["mine", "theirs", "later", "assigned"]), st.integers(0, 2))


@given(st.lists(MOVES, max_size=30))
def test_own_progress_is_exact_and_that_of_others_never_older_than_allowed(moves: list[tuple[str, int]]) -> None:
    """Partition 0 is read here, the others elsewhere."""
    store = Store()
    view = store.view()
    past: list[tuple[float, dict[int, Progress]]] = [(0.0, {})]
    for what, partition in moves:
        if what == "later":
            store.now += 0.07
        elif what == "assigned":
            view.drop("s")
        else:
            at = 0 if what == "mine" else 1 + partition
            moved = Progress(store.stored.get(at, Progress()).next_offset + 1)
            store.stored[at] = moved
            past.append((store.now, dict(store.stored)))
            if at == 0:
                view.moved("s", 0, moved)
        known = view.progress("s")
        assert known.get(0) == store.stored.get(0)
        old = [stored for then, stored in past if then <= store.now - AGE_S][-1:] or [{}]
        for at in (1, 2, 3):
            least, most = (of.get(at, Progress()).next_offset for of in (old[0], store.stored))
            assert least <= known.get(at, Progress()).next_offset <= most


def test_what_is_committed_while_it_is_read_is_not_lost() -> None:
    store = Store()
    view = store.view()
    store.stored = {0: Progress(1), 1: Progress(7)}

    def commit() -> None:
        view.moved("s", 0, Progress(2))

    store.during = commit
    assert view.progress("s") == {0: Progress(2), 1: Progress(7)}


def test_two_who_read_at_once_both_keep_what_is_committed_meanwhile() -> None:
    store = Store()
    view = store.view()
    store.stored = {0: Progress(1)}
    answers: list[Mapping[int, Progress]] = []

    def first() -> None:
        view.moved("s", 0, Progress(2))
        store.during = second
        answers.append(view.progress("s"))

    def second() -> None:
        view.moved("s", 0, Progress(3))

    store.during = first
    answers.append(view.progress("s"))
    assert answers == [{0: Progress(3)}] * 2
    assert view.progress("s") == {0: Progress(3)}


def test_what_was_read_before_it_was_dropped_is_not_kept() -> None:
    store = Store()
    view = store.view()
    store.during = lambda: view.drop("s")
    view.progress("s")
    store.during = lambda: None
    store.stored = {0: Progress(5)}
    assert view.progress("s") == {0: Progress(5)}


def test_it_is_read_again_only_when_it_is_old_or_was_dropped() -> None:
    store = Store()
    view = store.view()
    for _ in range(3):
        view.progress("s")
    assert store.reads == 1
    store.now = AGE_S
    view.progress("s")
    view.drop("s")
    view.progress("s")
    assert store.reads == 3


def test_what_is_given_out_is_the_callers() -> None:
    view = Store().view()
    view.moved("s", 0, Progress(1))
    given_out = dict(view.progress("s"))
    given_out[5] = Progress(9)
    assert view.progress("s") == {}


def test_what_reading_raises_is_raised_and_it_is_read_again() -> None:
    store = Store()
    view = store.view()

    def fail() -> None:
        raise ConnectionError("gone")

    store.during = fail
    with pytest.raises(ConnectionError):
        view.progress("s")
    store.during = lambda: None
    assert view.progress("s") == {}
