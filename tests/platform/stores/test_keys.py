"""Keys that PostgreSQL would not take: U+0000, and more bytes than an index row has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore, ViewCommit
from dovetail.platform.stores.registry.asked import ASKED
from dovetail.platform.stores.registry.store import MetricRow, Registry
from dovetail.platform.stores.sql.keys import (
    LONGEST,
    by_stored,
    escaped,
    storable,
    storable_bytes,
    unescaped,
)
from tests.platform.stores.label_servers import Factory
from tests.platform.stores.online_servers import OnlineFactory
from tests.platform.stores.test_label_stores import insert, mark, row

LONG = "\u4e00" * 2_000 + "\0x"
TEXTS = ["r", "r\0", "r\x1a0", "r\x1a", "\x1a#" + "0" * 64, "", "\0", LONG, LONG + "y", "x" * 3_000, "\u00e9"]
texts = st.text(st.sampled_from(["a", "\0", "\x1a", "0", "1", "#", "\u4e00"]), max_size=8)


@given(texts)
def test_an_escaped_text_is_read_back(text: str) -> None:
    assert "\0" not in escaped(text)
    assert unescaped(escaped(text)) == text


@given(st.sets(texts))
def test_different_texts_stay_different(given_texts: set[str]) -> None:
    assert len({storable(text) for text in given_texts}) == len(given_texts)


def test_what_is_stored_fits_and_is_known_again() -> None:
    stored = [storable(text) for text in TEXTS]
    assert len(set(stored)) == len(TEXTS)
    assert max(len(text.encode()) for text in stored) <= 2 * LONGEST
    found = by_stored(TEXTS, stored)
    assert [found.get(text, text) for text in stored] == TEXTS
    keys = [b"s" + bytes(4), b"s" * LONGEST, b"s" * (LONGEST + 1), b"s" * 9_000]
    assert len({storable_bytes(key) for key in keys}) == len(keys)
    assert max(map(len, map(storable_bytes, keys))) == LONGEST


def test_label_rows_of_any_request_are_found(new_store: Factory) -> None:
    store = new_store()
    items = ["1", "i\0", "\x1a", "\u4e00" * 300]
    rows = [row(text, item, offset=n) for n, (text, item) in enumerate((t, i) for t in TEXTS for i in items)]
    insert(store, rows, 0)
    insert(store, rows[:3], 1)
    found = store.lookup([*TEXTS, "none"]).to_pylist()
    asked = {(r["request_id"], r["item_id"], r["offset"]) for r in found}
    assert asked == {(r[0], r[1], r[6]) for r in rows}
    assert {r["item_id"] for r in store.lookup([LONG]).to_pylist()} == set(items)
    mark(store, [(r[0], r[1], r[2]) for r in rows[:8]], "sampled", 0)
    assert store.outcomes() == {("click", "pending"): len(rows) - 8, ("click", "sampled"): 8}


def test_states_of_any_key_are_found(new_online_store: OnlineFactory) -> None:
    store: OnlineStore = new_online_store()
    keys = [b"a", b"\0", b"s" * 1_024, b"s" * 1_025, bytes(range(256)) * 40, bytes(range(256)) * 41]
    store.commit(0, [ViewCommit("v", 0, Progress(1), {key: b"state %d" % n for n, key in enumerate(keys)})], [])
    assert store.read_partition("v", 0, keys) == [b"state %d" % n for n in range(len(keys))]
    states = store.read({"v": keys})["v"]
    assert [states.blobs[i] for i in states.key_index.argsort()] == [b"state %d" % n for n in range(len(keys))]
    store.commit(0, [ViewCommit("v", 1, Progress(2), {keys[4]: b"", keys[5]: b"new"})], [])
    assert store.read_partition("v", 0, keys[3:]) == [b"state 3", None, b"new"]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry that knows nothing; on PostgreSQL in a schema of its own."""
    if request.param == "sqlite":
        made = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
        yield made
        made.close()
        return
    server, schema = str(request.getfixturevalue("postgresql_url")), f"keys{os.getpid()}"
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    made = Registry(f"{server}?options=-csearch_path%3D{schema}")
    yield made
    made.close()
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


def test_the_registry_keeps_any_user_request_reason_and_slice(registry: Registry) -> None:
    rows = [
        {"user_id": user, "request_time_us": 5, "partition": 0, "offset": n, "row": 0, "known_us": 5,
         "request_id": user, "items": f"a\x1f{user}"}
        for n, user in enumerate(TEXTS)
    ]  # fmt: skip
    asked = pa.Table.from_pylist(rows, schema=ASKED)
    registry.commit("requests", 0, expected=0, progress=Progress(1), accounts=[], asked=asked)
    found = registry.asked([*TEXTS, "nobody"], 0, 9)
    assert found.sort_by("offset") == asked
    registry.refuse("requests", 0, {3: "its user is 'u\0'"})
    assert registry.refused("requests", 0)[3].startswith("its user is 'u")
    numbers = dict.fromkeys(MetricRow._fields[3:], 1)
    scopes = ["total", "segment=s\0", "segment=" + "x" * 900]
    registry.add_metrics([MetricRow("m", scope, 1, **numbers) for scope in scopes])
    assert sorted(row.scope for row in registry.metrics("m")) == sorted(scopes)
