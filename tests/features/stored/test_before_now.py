"""Windows that end before the request, from messages to verdicts: served, recomputed, backfilled, bootstrapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from dovetail.app.jobs import BackfillRequest, archived_events, open_backfill, served_rows
from dovetail.app.reports import consistency_of, witness_of
from dovetail.app.worker import assemble
from dovetail.cli.main import app
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.consistency import equal_bits
from dovetail.features.stream.keys import encode_keys
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import DefinitionError
from tests.features.stored.stored_world import FILES, START, World, events
from tests.features.stored.test_by_hand import by_hand
from tests.generated import some

USERS = """
SELECT user_id, count(*) OVER hop AS hopped, sum(price) OVER hop AS spent, avg(price) OVER plain AS mean,
       max(kind) OVER strict AS greatest, sum(price) OVER strict AS before, stddev(price) OVER past AS spread,
       histogram(kind) OVER hop AS counts, count(DISTINCT kind) OVER plain AS kinds,
       arg_max(price, event_time, 3) OVER past AS prices, last(kind) OVER hop AS latest,
       first(price) OVER plain AS earliest, sum(price) OVER rows AS recent,
       arg_max(kind, event_time, 2) OVER rows AS two, nth_value(price, 2) OVER plain AS second,
       nth_value(kind, 3 ORDER BY event_time DESC) OVER hop AS third, newest(list(price) OVER strict, 4) AS newest,
       lag(kind, 2) OVER (PARTITION BY user_id ORDER BY event_time) AS lagged,
       least_by(list({'k': kind, 'v': price}) OVER hop) AS least,
       top_k(sum_by(list({'k': kind, 'v': price}) OVER hop), 1) AS top,
       greatest_by(list({'k': kind, 'v': event_time}) OVER strict) AS times,
       list_sum(newest(list(price) FILTER (WHERE kind = 'click') OVER past, 3)) AS few
FROM events
WINDOW hop AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND INTERVAL 5 HOUR PRECEDING),
       plain AS (PARTITION BY user_id ORDER BY event_time
                 RANGE BETWEEN INTERVAL 20 HOUR PRECEDING AND INTERVAL 7 HOUR PRECEDING),
       strict AS (PARTITION BY user_id ORDER BY event_time
                  RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW EXCLUDE GROUP),
       past AS (PARTITION BY user_id ORDER BY event_time
                RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 6 HOUR PRECEDING),
       rows AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND 2 PRECEDING)
"""
NAMES = (
    *("hopped", "spent", "mean", "greatest", "before", "spread", "counts", "kinds", "prices", "latest", "earliest"),
    *("recent", "two", "second", "third", "newest", "lagged", "few", "least", "top", "times"),
)
RANKING = (
    f"SELECT request_id, item_id, {', '.join(f'users.{name}' for name in NAMES)} "
    "FROM request LEFT JOIN users USING (user_id)"
)


def world_at(folder: Path, *, strictly: bool, users: str = USERS, ranking: str = RANKING) -> World:
    made = World(folder)
    made.write("users", users)
    made.write("ranking", ranking)
    made.load(features={"strictly_before": strictly})
    return made


@pytest.fixture(params=[False, True], ids=["at the request", "strictly before"])
def past(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = world_at(tmp_path / "past", strictly=request.param)
    yield made
    made.stores.close()


def snapshots_of(world: World) -> pa.Table:
    return read_dataset(world.stores.registry, world.stores.offline, "snapshots")


def test_what_is_served_is_what_duckdb_makes_of_it(past: World) -> None:
    past.live(60)
    found = consistency_of(past.project, past.stores)
    assert (found.mismatched, found.compared > 500) == (0, True)
    assert {f.feature for f in found.features if f.late} >= {"before", "two"}
    witnessed = witness_of(past.project, past.stores, 8)
    assert (witnessed.mismatched, witnessed.unwitnessed, witnessed.requests) == (0, 0, 8)
    served = snapshots_of(past)
    assert all(served.column(name).null_count < served.num_rows for name in NAMES)


def test_a_backfill_gives_what_was_served(past: World) -> None:
    past.live(40)
    out = past.folder / "out"
    open_backfill(past.project, past.stores, BackfillRequest("ranking", str(out), visibility="as_served")).run()
    by_key = [("request_id", "ascending"), ("item_id", "ascending")]
    made, served = (rows.sort_by(by_key) for rows in (ds.dataset(out, format="parquet").to_table(), snapshots_of(past)))
    assert made.num_rows == served.num_rows > 30
    for name in NAMES:
        assert equal_bits(made.column(name), served.column(name)).all(), name


def test_every_feature_is_reproduced_by_hand(past: World) -> None:
    past.live(30)
    served = snapshots_of(past)
    rows = served_rows(past.project.feature_set, served)
    at = served.num_rows - 1
    for column in some(past.project.feature_set.columns_of("streaming")):
        script = reproduce(past.project, column, rows.slice(at, 1), archived_events(past.project, past.stores))
        found = by_hand(script).cast(column.type)
        assert equal_bits(found, served.column(column.name).slice(at, 1)).all(), (column.name, script)


def test_bootstrapped_state_is_streamed_state(past: World, tmp_path: Path) -> None:
    past.send(events(130))
    past.archive()
    stores = past.stores
    bootstrap(past.project.stream_views["users"], stores.registry, stores.offline, stores.online)
    other = world_at(tmp_path / "other", strictly=past.project.config.features.strictly_before)
    other.send(events(130))
    other.stream("users", max_records=11)
    keys, _ = encode_keys([pa.array([f"u{n}" for n in range(5)])])
    for partition in (0, 1):
        states = [w.stores.online.read_partition("users", partition, keys) for w in (past, other)]
        assert states[0] == states[1]
        assert any(states[0])
    other.stores.close()


def test_strictly_before_leaves_out_what_happened_at_the_requests_time(tmp_path: Path) -> None:
    """A click and the request it led to have one time: the leak that strictly before is for."""
    served = {}
    for strictly in (False, True):
        world = world_at(
            tmp_path / str(strictly), strictly=strictly, users=FILES["users"],
            ranking="SELECT request_id, item_id, users.clicks FROM request LEFT JOIN users USING (user_id)",
        )  # fmt: skip
        world.send([{"user_id": "u1", "kind": "click", "price": 1, "event_time": START + n} for n in range(3)])
        world.stream("users")
        for at in (1, 2, 3):
            asked = {"request_id": f"r{at}", "user_id": "u1", "candidates": [{"item_id": 1}]}
            world.ask([{**asked, "request_time": START + at}])
        world.answer()
        world.archive()
        served[strictly] = dict(zip(*(snapshots_of(world).column(c).to_pylist() for c in ("request_id", "clicks")),
                                    strict=True))  # fmt: skip
        assert consistency_of(world.project, world.stores).mismatched == 0
        world.stores.close()
    assert served == {False: {"r1": 2, "r2": 3, "r3": 3}, True: {"r1": 1, "r2": 2, "r3": 3}}


def test_strictly_before_is_part_of_what_a_view_means(world: World) -> None:
    assemble(world.project, roles=["features"]).stores.close()
    world.send(events(10))
    world.stream("users")
    assemble(world.load(), roles=["features"]).stores.close()
    with pytest.raises(DefinitionError, match="streaming view users means something else"):
        assemble(world.load(features={"strictly_before": True}), roles=["features"])


def test_check_says_what_is_kept_and_when(tmp_path: Path) -> None:
    world = world_at(tmp_path / "past", strictly=False)
    toml = world.folder / "dovetail.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "\n[features]\nstrictly_before = true\n", encoding="utf-8")
    shown = CliRunner().invoke(app, ["check", "--project", str(world.folder)], env={"COLUMNS": "2000"}).stdout
    assert "aggregates strictly before the request; per key" in shown
    assert "the last 5 events, and the events within allowed_lateness;" in shown
    least = "count and least per distinct value and 3600 s in 86400 s, and the events within allowed_lateness"
    assert f"{least} and 18000 s" in shown
    world.stores.close()


def test_it_is_the_value_of_a_microsecond_before(tmp_path: Path) -> None:
    """Of every window there is, at times at which events are, and beside them."""
    plain, strict = (world_at(tmp_path / str(s), strictly=s) for s in (False, True))
    log = pa.Table.from_pylist(events(80), schema=plain.project.streams["events"].schema.arrow)
    at = pc.add(log.column("event_time").cast(pa.int64()), pa.array([n % 3 - 1 for n in range(80)]))
    ids = [f"r{n}" for n in range(80)]
    columns = {"request_id": ids, "user_id": log.column("user_id"), "item_id": [1] * 80}
    asked = pa.table({**columns, "request_time": at.cast(pa.timestamp("us"))})
    earlier = pa.table({**columns, "request_time": pc.subtract(at, 1).cast(pa.timestamp("us"))})
    wanted = plain.project.evaluate(None, earlier, {"events": log})
    for engine in ("batch", "stream"):
        found = strict.project.evaluate(None, asked, {"events": log}, engine=engine)
        answered = pc.is_valid(found.column("hopped")).to_numpy()  # the stream does not answer what is too old
        assert answered.sum() > (79 if engine == "batch" else 60)
        for name in NAMES:
            assert equal_bits(found.column(name), wanted.column(name))[answered].all(), (engine, name)
    for world in (plain, strict):
        world.stores.close()
