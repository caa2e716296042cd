"""The samples of a join count all at once, and those of two joins never together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.platform.archive.joined_days import DayDraft, draft_day, joined_name, keep_days, settle_joins
from dovetail.platform.errors import StoreError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.results.joined_files import JoinedFile
from dovetail.platform.stores.registry.store import Registry

DAYS = ("2024-01-01", "2024-01-02")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def name(tmp_path: Path) -> str:
    return joined_name(str(tmp_path / "out"))


def drafts(name: str, value: int, days: tuple[str, ...] = DAYS) -> list[DayDraft]:
    table = pa.table({"value": [value]})
    return [draft_day(OfflineStore(name), day, table.schema, [table]) for day in days]


def there(name: str) -> dict[str, int]:
    """By day, the value that readers see."""
    return {path.parent.name[4:]: pq.read_table(path)["value"][0].as_py() for path in Path(name).rglob("*.parquet")}


def ended(registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str, of: list[DayDraft]) -> None:
    """A driver that is ended between the transaction and the first file."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OfflineStore, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            keep_days(registry, name, of)


def test_days_without_samples_are_removed_and_those_of_others_are_not(registry: Registry, name: str) -> None:
    other = Path(name) / "day=2024-02-01" / "mine.parquet"
    other.parent.mkdir(parents=True)
    pq.write_table(pa.table({"value": [7]}), other)
    keep_days(registry, name, drafts(name, 1))
    assert there(name) == {DAYS[0]: 1, DAYS[1]: 1, "2024-02-01": 7}
    kept = keep_days(registry, name, drafts(name, 2, DAYS[1:]))
    assert kept == [f"{name}/day={DAYS[1]}/samples.parquet"]
    assert there(name) == {DAYS[1]: 2, "2024-02-01": 7}
    assert registry.joins.files(name) == [JoinedFile(f"day={DAYS[1]}/samples.parquet", 1)]
    assert keep_days(registry, name, []) == []
    assert there(name) == {"2024-02-01": 7}


@pytest.mark.parametrize("reader", ["", "/day=2024-01-01", "/day=2024-01-01/samples.parquet"])
def test_what_was_committed_is_put_in_place_by_who_reads(
    registry: Registry, name: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_days(registry, name, drafts(name, 1))
    ended(registry, monkeypatch, name, drafts(name, 2, DAYS[:1]))
    assert there(name) == dict.fromkeys(DAYS, 1)
    settle_joins(registry, f"{name}-2")
    assert registry.joins.unsettled() == [name], "that is another folder"
    settle_joins(registry, name + reader)
    assert there(name) == {DAYS[0]: 2}
    assert registry.joins.unsettled() == []
    settle_joins(registry, str(Path(name).parent))


def test_the_next_join_finishes_the_one_before(registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(registry, monkeypatch, name, drafts(name, 1))
    assert keep_days(registry, name, drafts(name, 2, DAYS[:1]))
    assert there(name) == {DAYS[0]: 2}
    assert not list(Path(name).rglob("*.partial"))


def test_of_two_joins_the_one_that_ends_last_is_told(registry: Registry, name: str) -> None:
    slow, fast = drafts(name, 1), drafts(name, 2)
    keep_days(registry, name, fast)
    with pytest.raises(StoreError, match="another join into this folder has ended meanwhile"):
        keep_days(registry, name, slow)
    assert there(name) == dict.fromkeys(DAYS, 2)
    assert not list(Path(name).rglob("*.partial"))


def test_who_was_paused_on_the_way_changes_nothing(
    registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost the lock by then: the comparison with what it had found is what holds."""
    keep_days(registry, name, drafts(name, 1))
    slow, replace = drafts(name, 2, DAYS[:1]), type(registry.joins).replace

    def paused(*given: object) -> object:
        monkeypatch.undo()
        known = registry.joins.files(name)
        registry.joins.replace(name, known, [*known, JoinedFile("day=2024-03-01/samples.parquet", 1)])
        return replace(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(registry.joins), "replace", paused)
    with pytest.raises(StoreError, match="another join"):
        keep_days(registry, name, slow)
    assert there(name) == dict.fromkeys(DAYS, 1)


def test_two_do_not_put_in_place_at_once(registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = OfflineStore.put

    def meanwhile(store: OfflineStore, draft: str, path: str) -> None:
        with pytest.raises(StoreError, match="another process does the same"):
            settle_joins(registry, name)
        put(store, draft, path)

    monkeypatch.setattr(OfflineStore, "put", meanwhile)
    assert keep_days(registry, name, drafts(name, 1))
    assert there(name) == dict.fromkeys(DAYS, 1)
