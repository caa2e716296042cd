"""A view over a UNION ALL of streams, from messages to verdicts: each stream has its own agent and positions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.reports import consistency_of
from dovetail.cli.main import app
from dovetail.features.plan.sources import Place, place_of, source_of
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.registration import changes, register
from dovetail.features.stream.engine import StreamEngine
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import StateError
from dovetail.platform.rows.accounts import balance
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import run_stage
from tests.features.stored.stored_world import FILES, HOUR, SECOND, START, TOML, World
from tests.features.stored.test_consistency import adds_one, by_hand, of

TWO = TOML.replace(
    "[tables.items]",
    '[streams.orders]\nkey = "buyer"\nevent_time = "ordered_at"\npartitions = 3\nallowed_lateness = "3h"\n\n'
    "[tables.items]",
)
ORDERS = """
CREATE TABLE orders (ordered_at TIMESTAMP NOT NULL, buyer VARCHAR NOT NULL, cents BIGINT, paid BOOLEAN);
"""
BOTH = """
WITH bought AS (SELECT buyer, CAST(cents AS DECIMAL(9,2)) AS cents, ordered_at FROM orders WHERE paid),
     named AS (SELECT buyer AS user_id, 'order' AS kind, CAST(cents * 0.01 AS DECIMAL(9,2)) AS price,
                      ordered_at AS event_time FROM bought)
SELECT user_id, count(*) OVER day AS clicks, sum(price) OVER day AS spent, avg(price) OVER day AS mean,
       count(*) FILTER (WHERE kind = 'order') OVER day AS orders, last(kind) OVER day AS latest,
       arg_max(kind, event_time, 3) OVER ever AS kinds
FROM (SELECT user_id, kind, price, event_time FROM events WHERE kind IS NOT NULL
      UNION ALL SELECT * FROM named WHERE price > 0
      UNION ALL SELECT user_id, 'any', 0.00::DECIMAL(9,2), event_time FROM events WHERE price > 50)
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
"""
RANKING = """
SELECT request_id, item_id, hour(request_time) AS hour, acts.clicks, acts.spent, acts.mean, acts.orders, acts.latest,
       array_to_string(acts.kinds, ',') AS kinds, users.price
FROM request LEFT JOIN acts USING (user_id) LEFT JOIN users USING (user_id)
"""
SQL = {**FILES, "orders": ORDERS, "acts": BOTH, "ranking": RANKING}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "two", TWO, SQL)
    yield made
    made.stores.close()


def clicks(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Like the world's events, at times that orders have, too."""
    kinds = ("click", "view", None)
    times = [START + n * HOUR - (n * 5 % 11) * HOUR // 4 for n in range(first, first + count)]
    return [
        {"user_id": f"u{n % 5}", "kind": kinds[n % 3], "price": n % 97, "event_time": time}
        for n, time in enumerate(times, start=first)
    ]


def orders(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Orders at the times of clicks, or out of order."""
    return [
        {"buyer": f"u{(n * 3) % 5}", "cents": n * 7, "paid": (True, False, None, True)[n % 4], "ordered_at": time}
        for n in range(first, first + count)
        for time in [START + n * HOUR - (n * 5 % 11) * HOUR // 4]
    ]


def live(world: World, hours: int) -> None:
    """Both streams, the orders' agent behind the clicks' now and then; requests; late events of either."""
    for hour in range(0, hours, 3):
        world.send(clicks(3, first=hour))
        world.send(orders(3, first=hour), "orders")
        agents = ("events", "orders") if hour % 2 else ("events",)
        for name in agents:
            asyncio.run(run_stage(world.feature_stage(*world.project.stream_views, of=name), world.log))
        newest = max(event["event_time"] for event in clicks(3, first=hour))
        asked = [
            {"request_id": f"r{hour}-{user}", "user_id": user, "request_time": newest, "candidates": [{"item_id": 1}]}
            for user in ("u0", "u1", "u2", "u3", "nobody")
        ]
        world.ask(asked)
        world.answer()
        if hour % 4 == 0:
            late = newest - 60 * SECOND
            world.send([{"buyer": "u1", "cents": 99, "paid": True, "ordered_at": late}], "orders")
            world.send([{"user_id": "u2", "kind": "click", "price": 60, "event_time": late}])
    world.stream(*world.project.stream_views)
    world.archive()


def contents(world: World) -> list[tuple[Any, ...]]:
    """What is stored of view ``acts``: positions with watermarks, and every key's state by source."""
    progress = [(s, p.next_offset, p.watermark_us) for s, p in world.stores.online.progress("acts").items()]
    engine = sa.create_engine(f"sqlite:///{world.folder / '.dovetail' / 'online_store.sqlite'}")
    with engine.connect() as connection:
        query = sa.text("SELECT key, partition, state FROM feature_state WHERE view = 'acts' ORDER BY key, partition")
        rows = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return [*sorted(progress), *rows]


def test_sources_are_numbered_without_regard_to_how_many_partitions_there_are(two: World) -> None:
    view = two.project.stream_views["acts"]
    assert view.stream_names == ("events", "orders")
    assert [source_of(view, Place(branch, partition)) for partition in (0, 1) for branch in (0, 1, 2)] == [*range(6)]
    assert place_of(view, 5) == Place(branch=2, partition=1)
    assert view.stream.allowed_lateness_us == 3 * HOUR


def test_served_from_two_streams_is_recomputed_to_the_bit(two: World) -> None:
    live(two, 48)
    assert not any(balance(two.stores.online.accounts()).values())
    found = consistency_of(two.project, two.stores)
    assert found.mismatched == 0
    for feature in ("clicks", "spent", "mean", "orders", "latest", "kinds"):
        assert of(found, feature).compared == 16 * 5
        assert of(found, feature).late > 0, "some event came after a request that it was before"
    snapshots = read_dataset(two.stores.registry, two.stores.offline, "snapshots")
    seen = snapshots.column("_seen_acts").to_pylist()
    assert {len(positions) for positions in seen} >= {6, 8}  # of clicks alone; of orders, too
    assert len({tuple(positions) for positions in seen}) == 16
    assert any(snapshots.column("orders").to_pylist())


def test_reading_one_stream_again_changes_nothing(two: World) -> None:
    live(two, 24)
    before = contents(two), two.stores.online.accounts()

    async def again() -> None:
        stage = two.feature_stage(*two.project.stream_views, of="orders")
        stage.resume("orders")
        for partition in range(3):
            poll = two.log.poll("orders", partition, 0)
            assert poll is not None
            for work in [work async for work in stage.handle(poll)]:
                assert work.commit is not None
                work.commit()

    asyncio.run(again())
    assert (contents(two), two.stores.online.accounts()) == before


class Died(Exception):
    """What ends a worker."""


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
def test_a_crash_between_commits_counts_nothing_twice(
    two: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    whole, commits = SqlOnlineStore.commit, 0

    def dies(self: SqlOnlineStore, *arguments: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == dies_at:
            raise Died
        whole(self, *arguments)

    for world in (two, other := World(tmp_path / "other", TWO, SQL)):
        world.send(clicks(24))
        world.send(orders(24), "orders")
    with monkeypatch.context() as patched:
        patched.setattr(SqlOnlineStore, "commit", dies)
        with pytest.raises(Died):
            two.stream("acts", "users")
    two.stream("acts", "users")
    other.stream("acts", "users", max_records=100)
    assert contents(two) == contents(other)
    assert two.stores.online.accounts() == other.stores.online.accounts()
    other.stores.close()


def test_bootstrap_then_stream_is_stream_from_the_start(two: World, tmp_path: Path) -> None:
    view, stores = two.project.stream_views["acts"], two.stores
    with pytest.raises(StateError, match="nothing is archived of stream events, orders"):
        bootstrap(view, stores.registry, stores.offline, stores.online)
    two.send(clicks(30))
    two.send(orders(20), "orders")
    two.archive()
    found = bootstrap(view, stores.registry, stores.offline, stores.online)
    assert found.rows == 50
    assert {stream: sum(offsets.values()) for stream, offsets in found.positions.items()} == {
        "events": 30,
        "orders": 20,
    }
    with pytest.raises(StateError, match=r"has state \(up to offset \d+ of partition 0 of events, .* of orders"):
        bootstrap(view, stores.registry, stores.offline, stores.online)
    other = World(tmp_path / "other", TWO, SQL)
    other.send(clicks(30))
    other.send(orders(20), "orders")
    for world in (two, other):
        world.send(clicks(12, first=30))
        world.send(orders(9, first=20), "orders")
        world.stream("acts")
    assert contents(two) == contents(other)
    other.stores.close()


def test_a_backfill_in_pieces_is_evaluation_as_a_whole(two: World) -> None:
    live(two, 30)
    read = {
        name: read_dataset(two.stores.registry, two.stores.offline, name) for name in ("events", "orders", "requests")
    }
    job = open_backfill(two.project, two.stores, BackfillRequest("ranking", str(two.folder / "out")))
    job.run()
    made = pa.concat_tables([job.out.read(path) for path, _ in job.out.find()]).sort_by("request_id")
    declared = [*two.project.request.arrow.names]
    whole = two.project.evaluate(None, read["requests"].select(declared), read).sort_by("request_id")
    assert made.select(whole.column_names).equals(whole)
    script = job.explain()
    assert "given_events_2" in script
    assert "UNION ALL" in script


def test_a_broken_engine_is_caught_and_the_right_value_shown(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, "values", adds_one(StreamEngine.values))
        two.write("users", FILES["users"].replace("AS price", "AS price, count(*) OVER day AS all_of"))
        two.load()
        live(two, 24)
    found = of(consistency_of(two.project, two.stores), "clicks")
    assert found.mismatched > 0
    for example in found.examples:
        assert str(by_hand(example.sql)["clicks"]) == example.recomputed


def test_the_order_of_the_union_is_part_of_what_a_view_means(two: World) -> None:
    two.send(clicks(6))
    two.stream("acts")
    register(two.project, two.stores.registry, two.stores.online)
    first, rest = BOTH.split("FROM (")[1].split("UNION ALL", 1)
    second, third = rest.split("UNION ALL")
    swapped = f"{BOTH.split('FROM (')[0]}FROM ({second} UNION ALL {first} UNION ALL {third}"
    two.write("acts", swapped)
    (changed,) = [c for c in changes(two.load(), two.stores.registry, two.stores.online) if c.what == "changed"]
    assert (changed.name, changed.refused) == ("acts", True)
    assert changed.state == "stored state cannot be read; it must be built again"


def test_check_names_the_streams(two: World) -> None:
    run = CliRunner()
    listed = json.loads(run.invoke(app, ["check", "--project", str(two.folder), "--json"]).stdout)
    (shown,) = [view for view in listed if view["name"] == "acts"]
    assert shown["streams"] == ["events", "orders", "events"]
    table = run.invoke(app, ["check", "--project", str(two.folder)], env={"COLUMNS": "400"}).stdout
    assert "per key, for each SELECT (of events, orders, events)" in " ".join(table.split())
