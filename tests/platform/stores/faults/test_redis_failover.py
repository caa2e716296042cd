"""A primary of a Redis Cluster is killed: writers wait for its replica, and do again what that never got."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import ConfigError, StaleCommit, StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.online import OnlineStore, ViewCommit
from dovetail.platform.stores.online_stores import open_online_store
from tests.platform.stores.faults.redis_cluster import Cluster, running_cluster

pytestmark = [pytest.mark.services, pytest.mark.slow]

#: Waits for 15 seconds at the least, a promotion here takes about two.
PATIENT = RedisConfig(retries=18)
NAME = "failover"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "nodes", replicas=3, node_timeout_ms=500) as made:
        yield made


@pytest.fixture
def store(cluster: Cluster) -> Iterator[OnlineStore]:
    opened = open_online_store(cluster.url, NAME, PATIENT)
    yield opened
    opened.close()


def node_of(cluster: Cluster, partition: int) -> int:
    return cluster.owner(f"{{{NAME}:{partition}/16}}")


def position(store: OnlineStore, partition: int) -> int:
    return store.progress("v").get(partition, Progress()).next_offset


def after(state: bytes, offset: int) -> bytes:
    """A state that depends on every event and on their order."""
    return b"%d" % zlib.crc32(b"%d" % offset, int(state or b"0"))


def state_at(offset: int) -> bytes:
    state = b""
    for at in range(offset):
        state = after(state, at)
    return state


def advance(store: OnlineStore, partition: int, at: int) -> None:
    """Fold the event at offset ``at`` into the state, as an agent does."""
    [state] = store.read_partition("v", partition, [b"k"])
    change = ViewCommit("v", at, Progress(at + 1), {b"k": after(state or b"", at)})
    store.commit(partition, [change], [Account("features.v", "t", partition, "read", 1)])


def rows(store: OnlineStore) -> dict[int, int]:
    return {account.partition: account.rows for account in store.accounts()}


def test_writers_go_on_with_the_replica_of_a_primary_that_was_killed_under_load(
    cluster: Cluster, store: OnlineStore
) -> None:
    """Each does what a worker does: refused or not sure of its state, it resumes from the stored position."""
    partitions = range(6)
    assert {node_of(cluster, partition) for partition in partitions} == {0, 1, 2}
    stop, failures = Event(), list[Exception]()

    def write(partition: int) -> int:
        at = 0
        while not stop.is_set():
            try:
                advance(store, partition, at)
                at += 1
            except StaleCommit:
                at = position(store, partition)
            except Exception as error:
                failures.append(error)
                raise
        return at

    with ThreadPoolExecutor(len(partitions)) as pool:
        writing = [pool.submit(write, partition) for partition in partitions]
        try:
            for number in (0, 1):
                before = [position(store, partition) for partition in partitions]
                while not failures and any(position(store, p) < before[p] + 20 for p in partitions):
                    pass
                cluster.kill(number)
                promoted = [position(store, partition) for partition in partitions]
                while not failures and any(position(store, p) < promoted[p] + 20 for p in partitions):
                    pass
        finally:
            stop.set()
        assert not failures
        reached = {partition: future.result() for partition, future in zip(partitions, writing, strict=True)}
    assert {partition: position(store, partition) for partition in partitions} == reached
    assert rows(store) == reached
    for partition, at in reached.items():
        assert store.read_partition("v", partition, [b"k"]) == [state_at(at)]


class Folding(Stage):
    """Folds each message into the state of its partition."""

    name, topics = "folding", ("t",)

    def __init__(self, store: OnlineStore) -> None:
        self.store = store

    def resume(self, topic: str) -> Mapping[int, int]:
        return {partition: progress.next_offset for partition, progress in self.store.progress("v").items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        for at in poll.offsets.tolist():
            yield Work(commit=lambda at=at: advance(self.store, poll.partition, at), done=at + 1)  # type: ignore[misc]


def test_commits_that_were_acknowledged_and_lost_with_the_primary_are_done_again(
    cluster: Cluster, store: OnlineStore, tmp_path: Path
) -> None:
    """Positions went back together with the state: the worker is refused, ends, and the next one reads again."""
    lost = node_of(cluster, 0)

    def worker() -> Runtime:
        return Runtime(create_app("test", f"embedded://{tmp_path / 'log.db'}", topics={"t": 1}), [Folding(store)])

    async def main() -> None:
        first = worker()
        await first.start()
        await first.publish([Outgoing("t", b"x")] * 5)
        await first.wait_for(lambda: first.completed["folding", "t", 0] == 5)
        await asyncio.to_thread(cluster.replicated, lost)
        await asyncio.to_thread(cluster.cut_off, lost)
        await first.publish([Outgoing("t", b"x")] * 5)
        await first.wait_for(lambda: first.completed["folding", "t", 0] == 10)
        await asyncio.to_thread(cluster.kill, lost)
        assert await asyncio.to_thread(position, store, 0) == 5
        assert await asyncio.to_thread(store.read_partition, "v", 0, [b"k"]) == [state_at(5)]
        await first.publish([Outgoing("t", b"x")])
        with pytest.raises(StaleCommit, match="the store is at offset 5, this worker expected 10"):
            await first.wait_for(lambda: False)
        await first.stop()
        second = worker()
        await second.start()
        await second.wait_for(lambda: second.completed.get(("folding", "t", 0)) == 11)
        await second.stop()

    asyncio.run(main())
    assert store.read_partition("v", 0, [b"k"]) == [state_at(11)]
    assert rows(store) == {0: 11}


def test_labels_are_inserted_and_found_again_after_a_failover(cluster: Cluster) -> None:
    labels = open_label_store(cluster.url, NAME, PATIENT)
    row = dict(zip(LABEL_ROWS.names, ("r", "i", "click", 1, 1, 0, 0, 0), strict=True))
    for at in range(3):
        table = pa.Table.from_pylist([{**row, "item_id": str(at)}], LABEL_ROWS)
        labels.insert("labels.click", 0, expected=at, progress=Progress(at + 1), rows=table, topic="click")
        if at == 1:
            number = cluster.owner(f"{{{NAME}}}")
            cluster.replicated(number)
            cluster.primaries[number].kill()  # the next insert meets the cluster without it
    assert sorted(labels.lookup(["r"]).column("item_id").to_pylist()) == ["0", "1", "2"]
    labels.close()


def test_a_new_worker_starts_by_any_node_that_the_url_names(cluster: Cluster) -> None:
    """The one named first is dead; a node that is no number is refused."""
    cluster.kill(0)
    open_online_store(cluster.url, NAME).close()
    with pytest.raises(StoreError, match="Redis does not answer"):
        open_online_store(cluster.url.partition(",")[0], NAME)
    with pytest.raises(ConfigError, match="cannot be used"):
        open_online_store(f"{cluster.url},localhost:none", NAME)


def test_without_a_replica_patience_has_an_end(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", node_timeout_ms=500) as cluster:
        store = open_online_store(cluster.url, NAME, RedisConfig(retries=2))
        cluster.primaries[node_of(cluster, 0)].kill()
        with pytest.raises(StoreError, match=r"Redis failed: .*goes on from what is stored once Redis can be reached"):
            advance(store, 0, 0)
        store.close()
