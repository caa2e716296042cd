"""What is put while a batch is under way shares the next one: in order, without a gap, nobody behind a later one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.kafka.partition_queue import PartitionQueue

NOW_MS = 1_700_000_000_000


class Batch:
    """Has room for so many messages."""

    def __init__(self, room: int) -> None:
        self.records: list[tuple[bytes, int]] = []
        self._room = room

    def append(self, *, key: Any, value: bytes, timestamp: int, headers: Any) -> object | None:
        assert key is None
        assert headers == []
        if len(self.records) == self._room:
            return None
        self.records.append((value, timestamp))
        return self


class Broker:
    """Takes a batch when it is let, one at a time, as aiokafka does of a partition; refuses those of ``refused``."""

    def __init__(self, room: int = 100, refused: frozenset[int] = frozenset()) -> None:
        self.log: list[bytes] = []
        self.batches: list[list[tuple[bytes, int]]] = []
        self._refused = refused
        self._let = asyncio.Semaphore(0)
        self._busy = False
        self.queue = PartitionQueue(lambda: Batch(room), self._send, lambda: NOW_MS)

    async def _send(self, batch: Any) -> int:
        assert not self._busy
        self._busy = True
        await self._let.acquire()
        self._busy = False
        self.batches.append(batch.records)
        if len(self.batches) - 1 in self._refused:
            raise ConnectionError("refused")
        self.log += [value for value, _ in batch.records]
        return len(self.log) - len(batch.records)

    async def answer(self, batches: int) -> None:
        """Take so many further batches."""
        for _ in range(batches):
            self._let.release()
            for _ in range(10):
                await asyncio.sleep(0)


def run_of(caller: int, messages: int) -> Sequence[Outgoing]:
    return [Outgoing("topic", b"%d.%d" % (caller, number), partition=0) for number in range(messages)]


@given(
    runs=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=12),
    room=st.integers(1, 8),
    refused=st.frozensets(st.integers(0, 8), max_size=3),
    given_up=st.frozensets(st.integers(0, 11), max_size=3),
)
def test_each_is_told_where_its_messages_are_in_the_order_they_were_put(
    runs: list[tuple[int, int]], room: int, refused: frozenset[int], given_up: frozenset[int]
) -> None:
    async def main() -> None:
        broker = Broker(room, refused)
        callers: list[asyncio.Task[list[int]]] = []
        for caller, (messages, answered) in enumerate(runs):
            callers.append(asyncio.create_task(broker.queue.put(run_of(caller, messages))))
            await asyncio.sleep(0)
            if caller in given_up:
                callers[caller].cancel()
            await broker.answer(answered)
        await broker.answer(sum(messages for messages, _ in runs))
        told = await asyncio.gather(*callers, return_exceptions=True)
        assert all(caller.done() for caller in callers)
        for caller, (offsets, (messages, _)) in enumerate(zip(told, runs, strict=True)):
            mine = [value for value in broker.log if value.startswith(b"%d." % caller)]
            assert mine == [message.value for message in run_of(caller, messages)][: len(mine)]  # no gap
            if isinstance(offsets, BaseException):
                assert isinstance(offsets, ConnectionError | asyncio.CancelledError)
                assert isinstance(offsets, ConnectionError) <= bool(refused)
            else:
                assert [broker.log[offset] for offset in offsets] == mine
                assert len(mine) == messages
        first = [int(value.partition(b".")[0]) for value in broker.log]
        assert first == sorted(first)  # nobody behind a later one

    asyncio.run(main())


def test_what_comes_while_a_batch_is_under_way_is_one_batch() -> None:
    async def main() -> None:
        broker = Broker()
        callers = [asyncio.create_task(broker.queue.put(run_of(caller, 2))) for caller in range(6)]
        await broker.answer(2)
        assert [len(batch) for batch in broker.batches] == [12]
        later = [asyncio.create_task(broker.queue.put(run_of(6, 1)))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is under way
        later += [asyncio.create_task(broker.queue.put(run_of(caller, 1))) for caller in range(7, 10)]
        await broker.answer(1)
        assert [len(batch) for batch in broker.batches] == [12, 1, 3]
        assert [await caller for caller in (*callers, *later)][-1] == [15]

    asyncio.run(main())


def test_messages_have_their_own_time_or_that_of_the_batch() -> None:
    async def main() -> None:
        broker = Broker()
        own = Outgoing("topic", b"own", partition=0, timestamp_ms=7)
        put = asyncio.create_task(broker.queue.put([own, *run_of(0, 1)]))
        await broker.answer(1)
        await put
        assert broker.batches == [[(b"own", 7), (b"0.0", NOW_MS)]]

    asyncio.run(main())


def test_who_waits_when_it_is_closed_is_cancelled() -> None:
    async def main() -> None:
        broker = Broker(room=1)
        callers = [asyncio.create_task(broker.queue.put(run_of(caller, 1))) for caller in range(3)]
        await broker.answer(1)
        broker.queue.close()
        assert await callers[0] == [0]
        for caller in callers[1:]:
            with pytest.raises(asyncio.CancelledError):
                await caller
        assert broker.log == [b"0.0"]

    asyncio.run(main())
