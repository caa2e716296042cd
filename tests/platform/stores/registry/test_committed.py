"""Progress that is remembered is never older than what has been committed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.sql.labels import SqlLabelStore

NOTHING: pa.Table = LABEL_ROWS.empty_table()
SCOPES = ("labels.click", "labels.exposure")


def move(store: SqlLabelStore, scope: str, partition: int, from_offset: int) -> None:
    progress = Progress(from_offset + 1, watermark_us=from_offset)
    store.insert(scope, partition, expected=from_offset, progress=progress, rows=NOTHING, topic="click")


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(SCOPES), st.integers(0, 2)), max_size=25))
def test_each_of_two_stores_sees_every_move_of_either(moves: list[tuple[int, str, int]]) -> None:
    """Two stores on one file: to SQLite they are two processes."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [SqlLabelStore(f"sqlite:///{folder}/labels.sqlite") for _ in range(2)]
        expected: dict[str, dict[int, int]] = {scope: {} for scope in SCOPES}
        for mover, scope, partition in moves:
            before = expected[scope].get(partition, 0)
            move(stores[mover], scope, partition, before)
            expected[scope][partition] = before + 1
            for store in stores:
                for name, offsets in expected.items():
                    assert {p: found.next_offset for p, found in store.progress(name).items()} == offsets
        for store in stores:
            store.close()


def test_another_process_is_seen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/labels.sqlite"
    store = SqlLabelStore(url)
    move(store, "labels.click", 0, 0)
    assert store.progress("labels.click")[0].next_offset == 1
    program = (
        "import sys; from tests.platform.stores.registry.test_committed import SqlLabelStore, move; "
        "move(SqlLabelStore(sys.argv[1]), 'labels.click', 0, 1)"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True)
    assert store.progress("labels.click")[0].next_offset == 2
    store.close()


def test_what_is_given_out_is_the_callers(tmp_path: Path) -> None:
    store = SqlLabelStore(f"sqlite:///{tmp_path}/labels.sqlite")
    move(store, "labels.click", 0, 0)
    given_out = dict(store.progress("labels.click"))
    given_out.clear()
    assert list(store.progress("labels.click")) == [0]
    store.close()
