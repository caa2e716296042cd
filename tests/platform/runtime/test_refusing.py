"""What a message from outside raises, of any type, refuses that message; what is not its fault ends the worker."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.platform.errors import (
    ConfigError,
    DamagedState,
    EngineFailed,
    StaleCommit,
    StateError,
    StoreError,
    TransportError,
    WireError,
    blameless,
    reason_of,
)
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry

BAD = b"bad"


class Eater(Stage):
    """Keeps what it reads; ``choke`` raises for values it cannot compute."""

    name = "eater"
    topics = ("in",)

    def __init__(self, choke: Callable[[list[bytes]], None], registry: Registry, *, outside: bool = True) -> None:
        self.choke = choke
        self.refusals = Refusals(registry.refused, registry.refuse) if outside else None
        self.eaten: list[bytes] = []
        self.refused: dict[int, str] = {}
        self.next = 0
        self.choke_after_commit = False

    def resume(self, topic: str) -> Mapping[int, int]:
        return {0: self.next}

    def values(self, poll: Poll) -> dict[int, bytes]:
        refused = self.refusals.within("in", 0, poll.first, poll.last) if self.refusals else {}
        self.refused |= refused
        values = dict(zip(poll.offsets.tolist(), (value or b"" for value in poll.values), strict=True))
        return {offset: value for offset, value in values.items() if offset not in refused}

    def probe(self, poll: Poll) -> None:
        self.choke(list(self.values(poll).values()))

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        values = list(self.values(poll).values())
        if not self.choke_after_commit:
            self.choke(values)

        def commit() -> None:
            self.eaten += values
            self.next = poll.last + 1

        yield Work(commit=commit, done=poll.last + 1)
        self.choke(values)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    yield registry
    registry.close()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):
        yield


def live(path: Path, stage: Eater, values: list[bytes]) -> BaseException | None:
    """One life of a runtime, to the end of ``values``; returns what it failed with."""

    async def main() -> BaseException | None:
        runtime = Runtime(create_app("test", f"embedded://{path}/log.db", topics={"in": 1}), [stage])
        try:
            async with asyncio.timeout(30):
                await runtime.start()
                await runtime.publish([Outgoing("in", value, partition=0) for value in values])
                await runtime.wait_for(lambda: runtime.handled.get(("eater", "in", 0)) == len(VALUES))
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            return error
        finally:
            await runtime.stop()
        return None

    return asyncio.run(main())


def choking(error: BaseException) -> Callable[[list[bytes]], None]:
    def choke(values: list[bytes]) -> None:
        if BAD in values:
            raise error

    return choke


VALUES = [b"%d" % n for n in range(20)]
VALUES[3] = VALUES[17] = BAD
GOOD = [value for value in VALUES if value != BAD]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TypeError("no"),
        KeyError("no"),
        ZeroDivisionError("no"),
        RecursionError("no"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        json.JSONDecodeError("no", "{", 0),
        pa.ArrowInvalid("no"),
        OSError("Lz4: damaged"),
        WireError("no"),
        StateError("a sum does not fit"),
        ExceptionGroup("no", [ValueError("no")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_any_type_refuses_the_messages_that_raise_it(
    tmp_path: Path, registry: Registry, error: Exception
) -> None:
    stage = Eater(choking(error), registry)
    assert live(tmp_path, stage, VALUES) is None
    assert stage.eaten == GOOD
    assert stage.refused == dict.fromkeys((3, 17), f"{type(error).__name__}: {error}")
    # Durably: who reads it all again, from the beginning, turns them away without computing them.
    again = Eater(choking(StoreError("never computed")), registry)
    assert live(tmp_path, again, []) is None
    assert again.eaten == GOOD


@pytest.mark.parametrize(
    "error",
    [
        StoreError("away"),
        StaleCommit("eater", 0, expected=0, found=1),
        TransportError("away"),
        ConfigError("wrong"),
        DamagedState("damaged"),
        EngineFailed("out of memory"),
        MemoryError(),
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_a_message_ends_the_worker_and_refuses_nothing(
    tmp_path: Path, registry: Registry, error: Exception
) -> None:
    stage = Eater(choking(error), registry)
    assert live(tmp_path, stage, VALUES) is error
    assert not stage.eaten
    assert not registry.refused("in", 0)


def test_what_dovetail_made_itself_is_not_refused(tmp_path: Path, registry: Registry) -> None:
    error = ValueError("a bug")
    assert live(tmp_path, Eater(choking(error), registry, outside=False), VALUES) is error


def test_messages_that_fail_only_together_end_the_worker(tmp_path: Path, registry: Registry) -> None:
    error = ValueError("too many")

    def choke(values: list[bytes]) -> None:
        if len(values) == len(VALUES):
            raise error

    assert live(tmp_path, Eater(choke, registry), VALUES) is error
    assert not registry.refused("in", 0)


def test_what_another_reader_refuses_meanwhile_is_turned_away_too(tmp_path: Path, registry: Registry) -> None:
    """Else the halves, computed when it is refused, would succeed, and nobody would be to blame."""
    stage = Eater(lambda _values: None, registry)

    def choke(values: list[bytes]) -> None:
        if BAD in values and not registry.refused("in", 0):
            assert stage.refusals is not None
            stage.refusals.add("in", 0, {3: "by another", 17: "by another"})
            raise ValueError("by this one")

    stage.choke = choke
    assert live(tmp_path, stage, VALUES) is None
    assert stage.eaten == GOOD
    assert set(stage.refused.values()) == {"by another"}


def test_after_an_effect_nothing_is_computed_again(tmp_path: Path, registry: Registry) -> None:
    error = ValueError("late")
    stage = Eater(choking(error), registry)
    stage.choke_after_commit = True
    assert live(tmp_path, stage, VALUES) is error
    assert stage.eaten == VALUES
    assert not registry.refused("in", 0)


def test_the_reason_names_type_and_text_and_no_password() -> None:
    error = RuntimeError("cannot reach postgresql://me:hunter2@host/db?password=hunter2")
    assert reason_of(error) == "RuntimeError: cannot reach postgresql://me:***@host/db?password=***"


def test_a_cancellation_is_no_fault_of_a_message() -> None:
    assert blameless(asyncio.CancelledError())


def test_who_was_refused_first_keeps_the_reason(registry: Registry) -> None:
    here, there = (Refusals(registry.refused, registry.refuse) for _ in range(2))
    assert there.within("in", 0, 0, 100) == here.within("in", 0, 0, 100) == {}
    here.add("in", 0, {7: "first", 90: "far"})
    there.add("in", 0, {7: "second", 8: "\0 \ud800" + "x" * 9_000})
    there.forget("in")
    registry.refuse("in", 1, {})
    other = "\\0 \\ud800" + "x" * 1_997
    assert registry.refused("in", 0) == {7: "first", 8: other, 90: "far"}
    assert registry.refused("in", 1) == {}
    assert there.within("in", 0, 7, 89) == {7: "first", 8: other}
    assert here.within("in", 0, 8, 90) == {90: "far"}
    here.forget("in")
    assert here.within("in", 0, 8, 90) == {8: other, 90: "far"}
