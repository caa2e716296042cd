"""The committable offset against a reference that keeps every offset by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import TransportError
from dovetail.platform.transports.acks import AckTracker


@st.composite
def polls_with_holes(draw: st.DrawFn) -> list[list[int]]:
    """Runs of ascending offsets, with holes inside and between them."""
    offsets = sorted(draw(st.sets(st.integers(0, 200), min_size=1, max_size=60)))
    cuts = sorted(draw(st.sets(st.integers(1, len(offsets)), max_size=12)) | {len(offsets)})
    return [offsets[start:stop] for start, stop in zip([0, *cuts[:-1]], cuts, strict=True)]


@given(polls=polls_with_holes(), data=st.data())
def test_commit_never_passes_what_was_handed_out_and_not_acknowledged(
    polls: list[list[int]], data: st.DataObject
) -> None:
    tracker = AckTracker()
    open_offsets: set[int] = set()
    acknowledged: set[int] = set()
    waiting = list(polls)
    handed_out: list[list[int]] = []
    for _ in range(3 * len(polls)):
        action = data.draw(st.sampled_from(["deliver", "ack", "complete", "rewind"]))
        if action == "deliver" and waiting:
            poll = waiting.pop(0)
            tracker.deliver(poll[0], poll[-1])
            handed_out.append(poll)
            open_offsets |= set(poll)
        elif action == "ack" and handed_out:
            poll = data.draw(st.sampled_from(handed_out))
            assert tracker.ack(poll[-1]) == bool(set(poll) & open_offsets)
            open_offsets -= set(poll)
            acknowledged |= set(poll)
        elif action == "complete" and handed_out:
            offset = data.draw(st.integers(0, handed_out[-1][-1] + 1))
            tracker.complete(offset)
            below = {each for each in open_offsets if each < offset}
            open_offsets -= below
            acknowledged |= below
        elif action == "rewind" and handed_out:
            # At a poll's start, as the runtime does, so the same polls are handed out again.
            back = data.draw(st.sampled_from(handed_out))
            at = handed_out.index(back)
            tracker.rewind(back[0])
            again = {each for poll in handed_out[at:] for each in poll}
            open_offsets -= again
            acknowledged -= again
            waiting, handed_out = handed_out[at:] + waiting, handed_out[:at]
        if tracker.committable is not None:
            assert all(offset >= tracker.committable for offset in open_offsets)
            assert not waiting or tracker.committable <= waiting[0][0]  # what was rewound is to come again
        assert tracker.outstanding == sum(1 for poll in handed_out if set(poll) & open_offsets)
    for poll in handed_out:
        tracker.ack(poll[-1])
    assert tracker.outstanding == 0
    if handed_out:
        # Exact but for a hole: rewound to a poll behind one, the tracker stands at that poll and not before the hole.
        assert tracker.committable is not None
        last = handed_out[-1][-1]
        assert last < tracker.committable <= (waiting[0][0] if waiting else last + 1)


@given(polls=polls_with_holes(), order=st.randoms(use_true_random=False))
def test_any_order_of_acks_commits_the_acknowledged_prefix(polls: list[list[int]], order: object) -> None:
    tracker = AckTracker()
    for poll in polls:
        tracker.deliver(poll[0], poll[-1])
    shuffled = list(polls)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    done: set[int] = set()
    for poll in shuffled:
        tracker.ack(poll[-1])
        done.add(poll[-1])
        prefix = None
        for each in polls:
            if each[-1] not in done:
                break
            prefix = each[-1] + 1
        assert tracker.committable == prefix


def test_part_of_a_poll_may_be_committed() -> None:
    tracker = AckTracker()
    tracker.deliver(0, 9)
    tracker.complete(4)
    assert (tracker.committable, tracker.outstanding) == (4, 1)
    tracker.complete(3)  # less than what is known changes nothing
    assert tracker.committable == 4
    tracker.complete(100)
    assert (tracker.committable, tracker.outstanding) == (10, 0)


def test_an_ack_counts_once() -> None:
    tracker = AckTracker()
    tracker.deliver(0, 4)
    assert tracker.ack(4)
    assert not tracker.ack(4)
    assert not tracker.ack(77)


@pytest.mark.parametrize(("first", "last"), [(3, 6), (8, 7), (0, 0)])
def test_going_back_without_rewinding_is_refused(first: int, last: int) -> None:
    tracker = AckTracker()
    tracker.deliver(0, 4)
    with pytest.raises(TransportError, match="rewind the partition"):
        tracker.deliver(first, last)
