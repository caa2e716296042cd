"""One thread, urgent jobs first."""

from __future__ import annotations

import threading
from contextvars import copy_context

import pytest

from dovetail.platform.runtime.computing import URGENT, UrgentFirst


def test_urgent_jobs_are_done_before_others_that_wait_and_each_kind_in_order() -> None:
    executor, begun, go = UrgentFirst("test"), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> str:
        begun.set()
        go.wait()
        return threading.current_thread().name

    def submit(name: str, *, urgent: bool) -> None:
        URGENT.set(urgent)
        executor.submit(done.append, name)

    running = executor.submit(first)
    begun.wait()
    for name, urgent in (("a", False), ("b", True), ("c", False), ("d", True)):
        copy_context().run(submit, name, urgent=urgent)
    go.set()
    executor.shutdown()
    assert done == ["b", "d", "a", "c"]
    assert running.result() == "test"
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(first)


def test_raised_and_cancelled_jobs_belong_to_who_submitted_them() -> None:
    executor, begun, go = UrgentFirst("test"), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go.wait()
        raise ValueError("it cannot")

    failing = executor.submit(first)
    begun.wait()
    never = executor.submit(pytest.fail, "it was cancelled")
    assert never.cancel()
    go.set()
    after = executor.submit(int, "7")
    with pytest.raises(ValueError, match="it cannot"):
        failing.result()
    assert after.result() == 7
    executor.shutdown()


def test_one_that_was_never_used_is_shut_down() -> None:
    UrgentFirst("test").shutdown()
