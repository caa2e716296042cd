"""Files are left out when they have nothing of what is looked for, and never when they have."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.archive.dayfiles import NEVER_US, DayFiles
from dovetail.platform.archive.file_index import FileIndex, marks_of_file
from dovetail.platform.archive.finding import find_rows
from dovetail.platform.archive.key_filters import MOST_KEYS, filter_of, marks_of, may_hold
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.archived.file_marks import FileMarks
from dovetail.platform.stores.registry.store import DataFile, Registry

KEYS = st.lists(st.one_of(st.none(), st.text(max_size=90)), max_size=40)


@given(keys=KEYS, more=st.text(max_size=90))
def test_a_filter_holds_every_key_of_its_file(keys: list[str | None], more: str) -> None:
    bits = filter_of(pa.chunked_array([pa.array(keys[:3], pa.string()), pa.array(keys[3:], pa.string())]))
    assert bits is not None
    for key in keys:
        assert key is None or may_hold(bits, marks_of([key]))
        assert key is None or may_hold(bits, marks_of([more, key]))


@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), zeros=st.integers(0, 3))
def test_numbers_are_found_however_they_are_written(numbers: list[int], zeros: int) -> None:
    bits = filter_of(pa.chunked_array([pa.array(numbers, pa.int64())]))
    assert bits is not None
    for number in numbers:
        assert may_hold(bits, marks_of([number]))
        assert number < 0 or may_hold(bits, marks_of(["0" * zeros + str(number)]))


def test_a_filter_is_what_it_was_and_leaves_out_nearly_all_else() -> None:
    """It is stored: another hash would lose rows of archives that are there."""
    assert marks_of(["r1"]) == [(6558664879882606012, 3264472705403703813)]
    bits = filter_of(pa.chunked_array([pa.array([f"request-{number}" for number in range(5_000)])]))
    assert bits is not None
    assert len(bits) == 5_000 * 10 // 8 + 6
    strangers = sum(may_hold(bits, marks_of([f"stranger-{number}"])) for number in range(5_000))
    assert strangers < 5_000 * 0.02
    assert filter_of(pa.chunked_array([pa.array(range(MOST_KEYS + 1))])) is None
    assert filter_of(pa.chunked_array([pa.array([0.5])])) is None


@pytest.fixture
def archived(tmp_path: Path) -> tuple[Registry, OfflineStore]:
    """Six files of a dataset, each of ten seconds and of users of its own; the third is of an older version."""
    registry, store = Registry(f"sqlite:///{tmp_path}/registry.sqlite"), OfflineStore(f"{tmp_path}/offline")
    for number in range(6):
        times = pa.array([(number * 10 + second) * 1_000_000 for second in range(10)], pa.timestamp("us"))
        rows = pa.table(
            {
                "user": [f"u{number}-{n % 2}" for n in range(10)], "t": times,
                "_partition": pa.array([0] * 10, pa.int32()), "_offset": pa.array(range(number * 10, number * 10 + 10)),
                "_row": pa.array([0] * 10, pa.int32()),
            }
        )  # fmt: skip
        path = f"d/{number}.parquet"
        store.write(path, rows)
        marks = [] if number == 2 else [marks_of_file("d", path, rows, "t", ["user", "gone"])]
        file = DataFile("d", "1970-01-01", path, 10, 0, number * 10, number * 10 + 9)
        progress = Progress(number * 10 + 10)
        registry.commit("archive.d", 0, expected=number * 10, progress=progress, accounts=[], files=[file], marks=marks)
    return registry, store


def test_only_files_that_may_have_it_are_opened(
    archived: tuple[Registry, OfflineStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, store = archived
    opened: list[str] = []
    original = OfflineStore.open

    def noted(self: OfflineStore, path: str) -> object:
        opened.append(path)
        return original(self, path)

    monkeypatch.setattr(OfflineStore, "open", noted)
    files = DayFiles.archived(registry, store, "d", "t")
    for number in range(6):
        opened.clear()
        found = find_rows(files, "user", [f"u{number}-1"])
        assert found.rows.num_rows == 5
        assert set(opened) == {f"d/{number}.parquet", "d/2.parquet"}
    opened.clear()
    assert find_rows(files, "user", ["nobody"]).rows.num_rows == 0
    assert opened == ["d/2.parquet"]
    opened.clear()
    assert find_rows(files, "_offset", [0, 31], low_us=29_000_000, high_us=31_000_000).rows.num_rows == 1
    assert opened == ["d/2.parquet", "d/3.parquet"], "of a column without filters, by time alone"


def test_times_are_those_of_the_first_and_the_last_row(archived: tuple[Registry, OfflineStore]) -> None:
    registry, _ = archived
    spans = registry.file_spans("d")
    assert spans == {f"d/{n}.parquet": (n * 10_000_000, n * 10_000_000 + 9_000_000) for n in range(6) if n != 2}
    index = FileIndex(registry, "d")
    assert index.outside(None, NEVER_US) == set()
    assert index.outside(19_000_000, 30_000_000) == {"d/0.parquet", "d/4.parquet", "d/5.parquet"}
    assert registry.key_filters("d", "gone") == []


def test_marks_are_kept_with_their_file_or_not_at_all(archived: tuple[Registry, OfflineStore]) -> None:
    registry, _ = archived
    marks = FileMarks("d", "d/0.parquet", 0, 0, {})
    with pytest.raises(StaleCommit):
        registry.commit("archive.d", 0, expected=1, progress=Progress(2), accounts=[], marks=[marks])
    assert registry.file_spans("d")["d/0.parquet"] == (0, 9_000_000)
