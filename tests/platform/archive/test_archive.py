"""The archive: every row once, whatever is read again, in files that count only when registered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.archive.writer import ArchiveStage, Dataset, Decoded, read_dataset
from dovetail.platform.errors import StaleCommit, StoreError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.positions import with_own_positions, with_source_positions
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.refusing import refusing
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import ManualClock, MemoryLog, run_stage
from tests.generated import tries
from tests.platform.polls import poll_of

DAY_US = 86_400_000_000


def inside(poll: Poll) -> Decoded:
    return Decoded(wire.decode_arrow(poll))


def dataset(*, derived: bool) -> Dataset:
    return Dataset("d", "topic", "at", inside, derived=derived)


def message(number: int, rows: int = 1) -> Outgoing:
    """A derived message: ``rows`` rows made from source offset ``number``, on day ``number // 3``."""
    times = pa.array([number // 3 * DAY_US] * rows, pa.int64()).cast(pa.timestamp("us"))
    table = pa.table({"number": pa.array([number] * rows), "at": times})
    own = with_own_positions(table, 0, np.full(rows, number, dtype=np.int64), np.zeros(rows, dtype=np.int32))
    return Outgoing("topic", wire.encode(with_source_positions(own)), partition=0)


def stores(folder: Path) -> tuple[Registry, OfflineStore]:
    return Registry(f"sqlite:///{folder / 'registry.sqlite'}"), OfflineStore(str(folder / "offline"))


@pytest.mark.parametrize("days", [[0, 0, 0], [0, 0, 1, 1, 2], [1, 0, 1, 0, 0, 2, 1], [0] * 700 + [1] * 700])
def test_rows_are_filed_by_day_in_whatever_order_days_come(days: list[int], tmp_path: Path) -> None:
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(3 * day) for day in days])
    stage = ArchiveStage(dataset(derived=False), registry, offline)
    asyncio.run(run_stage(stage, log, max_records=lambda: 100, drain=True))
    found = {file.day: offline.read(file.path) for file in registry.files("d")}
    assert {day: rows.num_rows for day, rows in found.items()} == {
        f"1970-01-{day + 1:02d}": days.count(day) for day in set(days)
    }
    for day, rows in found.items():
        assert rows.column("_offset").to_pylist() == [
            at for at, one in enumerate(days) if f"1970-01-{one + 1:02d}" == day
        ]


@settings(max_examples=tries(25))
@given(
    published=st.lists(st.integers(0, 9), min_size=1, max_size=25),
    lives=st.lists(st.tuples(st.integers(1, 10), st.booleans()), min_size=1, max_size=4),
    max_rows=st.integers(1, 12),
)
def test_each_row_is_archived_once_whatever_is_published_again_and_wherever_it_dies(
    published: list[int],
    lives: list[tuple[int, bool]],
    max_rows: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Messages come in order of their source with repetitions; some lives end without settling."""
    folder = tmp_path_factory.mktemp("archive")
    registry, offline = stores(folder)
    log = MemoryLog({"topic": 1})
    highest, numbers = -1, []
    for step in published:
        highest = max(highest, min(step, highest + 1))
        numbers.append(min(step, highest))
    log.append([message(number, rows=2) for number in numbers])
    for max_records, drain in [*lives, (5, True)]:
        stage = ArchiveStage(dataset(derived=True), registry, offline, max_rows=max_rows)
        asyncio.run(run_stage(stage, log, max_records=lambda n=max_records: n, drain=drain))  # type: ignore[misc]
    rows = read_dataset(registry, offline, "d")
    expected = sorted(set(numbers))
    assert sorted(rows.column("number").to_pylist()) == sorted(expected * 2)
    assert not any(balance(registry.accounts()).values())
    registered = {file.path for file in registry.files("d")}
    assert sum(file.rows for file in registry.files("d")) == rows.num_rows
    assert all((folder / "offline" / path).exists() for path in registered)
    registry.close()


def test_files_are_by_day_and_say_where_their_rows_came_from(tmp_path: Path) -> None:
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(number) for number in range(5)])
    asyncio.run(run_stage(ArchiveStage(dataset(derived=True), registry, offline), log, drain=True))
    files = registry.files("d")
    assert [(f.day, f.rows, f.partition, f.first_offset, f.last_offset) for f in files] == [
        ("1970-01-01", 3, 0, 0, 2),
        ("1970-01-02", 2, 0, 3, 4),
    ]
    registry.close()


def test_a_file_left_by_a_crash_does_not_count(tmp_path: Path) -> None:
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(0)])
    offline.write("d/day=1970-01-01/left-over.parquet", pa.table({"number": [99]}))
    asyncio.run(run_stage(ArchiveStage(dataset(derived=True), registry, offline), log, drain=True))
    assert read_dataset(registry, offline, "d").column("number").to_pylist() == [0]
    registry.close()


def test_a_draft_left_by_a_crash_is_removed_by_who_archives_its_rows_and_no_other(tmp_path: Path) -> None:
    """The dead one cut its files elsewhere; nobody will ever write them under these names."""
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(number) for number in range(5)])  # three of one day, two of the next
    names = {
        "left by the dead": (
            "1970-01-01/00000-000000000000-000000000001",
            "1970-01-02/00000-000000000004-000000000004",
        ),
        "of others": ("1970-01-01/00001-000000000000-000000000001", "1970-01-03/00000-000000000000-000000000001"),
        "of what comes": ("1970-01-02/00000-000000000005-000000000009",),
        "of nobody known": ("1970-01-01/other",),
    }
    open_files, drafts = [], {}
    for what, paths in names.items():
        for path in paths:
            before = set((tmp_path / "offline").rglob("*.partial"))
            open_files.append(writer := offline.writer(f"d/day={path}.parquet", pa.schema([("number", pa.int64())])))
            writer.__enter__()
            (draft,) = set((tmp_path / "offline").rglob("*.partial")) - before
            drafts[draft] = what
    asyncio.run(run_stage(ArchiveStage(dataset(derived=True), registry, offline), log, drain=True))
    assert {what for draft, what in drafts.items() if draft.exists()} == set(names) - {"left by the dead"}
    assert sum(draft.exists() for draft in drafts) == 4
    assert read_dataset(registry, offline, "d").num_rows == 5
    # It was not dead but slow: its commit would have been refused.
    with pytest.raises(StoreError, match="this one's rows no longer count"):
        open_files[0].__exit__(None, None, None)
    registry.close()


def test_of_two_archives_of_one_partition_the_slower_is_refused_and_a_reassigned_one_starts_behind_the_other(
    tmp_path: Path,
) -> None:
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(number) for number in range(4)])

    async def both() -> None:
        zombie = ArchiveStage(dataset(derived=True), registry, offline)
        poll = log.poll("topic", 0, 0, 2)
        assert poll is not None
        assert [work async for work in zombie.handle(poll)] == []
        await run_stage(ArchiveStage(dataset(derived=True), registry, offline), log, drain=True)
        (work,) = [work async for work in zombie.settle("topic", 0, stopping=True)]
        assert work.commit is not None
        with pytest.raises(StaleCommit):
            work.commit()
        again = ArchiveStage(dataset(derived=True), registry, offline)
        again.resume("topic")
        assert [work async for work in again.handle(poll)] == []
        assert [work async for work in again.settle("topic", 0, stopping=True)] == []

    asyncio.run(both())
    assert sorted(read_dataset(registry, offline, "d").column("number").to_pylist()) == [0, 1, 2, 3]
    registry.close()


def test_rows_are_filed_when_they_have_waited_long_enough_although_nothing_more_comes(tmp_path: Path) -> None:
    registry, offline = stores(tmp_path)
    log, clock = MemoryLog({"topic": 1}), ManualClock(1_000_000)
    log.append([message(number) for number in (0, 1, 1, 1)])
    stage = ArchiveStage(dataset(derived=True), registry, offline, max_delay_us=60_000_000, clock=clock)

    async def settled() -> list[int | None]:
        works = [work async for work in stage.settle("topic", 0)]
        for work in works:
            assert work.commit is not None
            await asyncio.to_thread(work.commit)
        return [work.done for work in works]

    async def take(offset: int) -> None:
        poll = log.poll("topic", 0, offset, 2)
        assert poll is not None
        assert [work async for work in stage.handle(poll)] == []

    async def main() -> None:
        assert await settled() == []  # nothing was read yet
        await take(0)
        clock.advance(59_999_999)
        assert await settled() == []
        clock.advance(1)
        assert await settled() == [2]
        assert await settled() == []
        await take(2)  # only repetitions: no file, but a position
        clock.advance(-3_600_000_000)
        assert await settled() == [4]  # who set the clock back must not make it wait for an hour

    asyncio.run(main())
    assert read_dataset(registry, offline, "d").column("number").to_pylist() == [0, 1]
    assert len(registry.files("d")) == 1
    assert not any(balance(registry.accounts()).values())
    registry.close()


def test_a_rebalance_while_a_file_waits_to_be_registered_loses_nothing(tmp_path: Path) -> None:
    """The runtime asks a stage to resume although its partition stays, and goes on behind what it was given."""
    registry, offline = stores(tmp_path)
    log = MemoryLog({"topic": 1})
    log.append([message(number) for number in range(6)])
    stage = ArchiveStage(dataset(derived=True), registry, offline, max_rows=2)

    async def main() -> None:
        for offset in (0, 2, 4):
            poll = log.poll("topic", 0, offset, 2)
            assert poll is not None
            stage.resume("topic")
            async for work in stage.handle(poll):
                stage.resume("topic")
                assert work.commit is not None
                await asyncio.to_thread(work.commit)

    asyncio.run(main())
    assert read_dataset(registry, offline, "d").column("number").to_pylist() == list(range(6))
    registry.close()


def test_an_empty_dataset_reads_as_its_schema(tmp_path: Path) -> None:
    registry, offline = stores(tmp_path)
    schema = pa.schema([("x", pa.int64())])
    assert read_dataset(registry, offline, "none", schema).schema == schema
    registry.close()


def test_a_row_on_no_day_of_a_calendar_is_refused_before_it_waits_for_a_file(tmp_path: Path) -> None:
    """At the commit it would raise, at every start again, with all that is gathered with it."""
    registry, offline = stores(tmp_path)
    refusals = Refusals(registry.refused, registry.refuse)

    def outside(poll: Poll) -> Decoded:
        refused = refusals.within("topic", 0, poll.first, poll.last)
        times = [int(value or b"") for value, at in zip(poll.values, poll.offsets, strict=True) if at not in refused]
        table = pa.table({"at": pa.array(times, pa.int64()).cast(pa.timestamp("us"))})
        offsets = np.array([at for at in poll.offsets if at not in refused], dtype=np.int64)
        return Decoded(with_own_positions(table, 0, offsets, np.zeros(len(times), dtype=np.int32)), len(refused))

    stage = ArchiveStage(Dataset("d", "topic", "at", outside, derived=False, refusals=refusals), registry, offline)
    poll = poll_of([b"0", b"%d" % -(1 << 62), b"%d" % DAY_US])

    async def main() -> None:
        async for work in refusing(stage, poll):
            raise AssertionError(work)
        async for work in stage.settle("topic", 0, stopping=True):
            assert work.commit is not None
            work.commit()

    asyncio.run(main())
    assert read_dataset(registry, offline, "d").column("_offset").to_pylist() == [0, 2]
    assert list(registry.refused("topic", 0)) == [1]
    assert {account.outcome: account.rows for account in registry.accounts() if account.rows} == {
        "read": 3, "archived": 2, "dead_letter": 1,
    }  # fmt: skip
