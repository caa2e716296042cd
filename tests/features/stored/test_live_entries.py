"""Views that keep entries (last k, top k, ROWS, distinct, maps), live: restarts, repetitions, late and equal events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dovetail.app.reports import consistency_of
from dovetail.cli.main import app
from dovetail.features.serving import online_features as serving
from dovetail.features.stream.collections import gather, pick
from dovetail.features.stream.collections.entries import Entries
from dovetail.features.stream.collections.rules import BEST, Collection, CollectionLayout
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.layout import Layout
from dovetail.features.stream.prepare import PreparedRows
from dovetail.features.stream.update import UpdatePlan
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.testing import run_stage
from tests.features.stored.stored_world import HOUR, SECOND, START, World

USERS = """
SELECT user_id,
       arg_max(kind, event_time, 3) OVER day                    AS last_kinds,
       last(price) OVER three                                   AS last_price,
       first_distinct(list(kind) OVER three, 2)                 AS first_kinds,
       last_distinct(list(kind) OVER ever, 2)                   AS kinds,
       top_k(histogram(kind) OVER day, 2)                       AS usual,
       histogram(kind) OVER three                               AS counts,
       sum_by(list({'k': kind, 'v': price}) OVER day)           AS spent,
       count(DISTINCT price) OVER day                           AS prices,
       arg_min(price, event_time, 2) FILTER (WHERE kind = 'click') OVER day AS first_clicked,
       avg(price) OVER five                                     AS mean_of_five,
       count(*) OVER day                                        AS events
FROM events
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       three AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
       five AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)
"""
FEATURES = [line.split(" AS ")[1].strip(",") for line in USERS.splitlines() if " OVER " in line]
RANKING = f"SELECT request_id, item_id, {', '.join(FEATURES)} FROM request LEFT JOIN users USING (user_id)"
USER_IDS = [f"u{n}" for n in range(5)]


class Crash(Exception):
    """The agent dies here."""


def opened(folder: Path) -> World:
    world = World(folder)
    world.write("users", USERS)
    world.write("ranking", RANKING)
    world.load()
    return world


def events(count: int) -> list[dict[str, Any]]:
    """Every third at the time of the one before it, every fifth up to two hours late, every seventh sent twice."""
    rows: list[dict[str, Any]] = []
    for n in range(count):
        time = START + n * HOUR // 4 - (2 * HOUR if n % 5 == 4 else 0)
        row = {"user_id": USER_IDS[n * n % 5], "kind": ("click", "view", None, "order")[n * 3 % 4], "price": n % 6}
        row["event_time"] = rows[-1]["event_time"] if n % 3 == 2 else time
        rows += [row] * (2 if n % 7 == 0 else 1)
    return rows


def states(store: OnlineStore) -> list[bytes]:
    keys, _ = encode_keys([pa.array(USER_IDS)])
    return list(store.read({"users": keys})["users"].blobs)


def ask(world: World, number: int, time_us: int) -> None:
    rows = [
        {"request_id": f"r{number}-{user}", "user_id": user, "request_time": time_us, "candidates": [{"item_id": 0}]}
        for user in [*USER_IDS, "nobody"]
    ]
    world.ask(rows)


def crashing(world: World, die_at: int) -> bool:
    """Run the feature agent to the end of the log, or until it has done ``die_at`` steps; whether it died."""
    steps = 0

    def on_step(_stage: str, _step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            raise Crash

    stage = world.feature_stage("users")
    try:
        asyncio.run(run_stage(stage, world.log, max_records=lambda: 3, on_step=on_step))
    except Crash:
        return True
    return False


def test_crashes_restarts_and_repetitions_leave_no_trace_in_the_states(tmp_path: Path) -> None:
    rows = events(60)
    whole, broken = opened(tmp_path / "whole"), opened(tmp_path / "broken")
    whole.send(rows)
    whole.stream("users", max_records=1_000)
    broken.send(rows)
    deaths = 0
    while crashing(broken, die_at=2 + deaths % 7):  # after a work was computed, published, committed, acknowledged …
        deaths += 1
    assert deaths > 8
    assert states(broken.stores.online) == states(whole.stores.online)
    assert any(states(whole.stores.online))
    # The whole log again, to an agent that thinks it is at the beginning of it: all included already.
    stage = broken.feature_stage("users")
    before = states(broken.stores.online)

    async def again() -> None:
        stage.resume("events")
        for partition in (0, 1):
            poll = broken.log.poll("events", partition, 0)
            assert poll is not None
            async for work in stage.handle(poll):
                assert work.commit is not None
                work.commit()

    asyncio.run(again())
    assert states(broken.stores.online) == before
    for world in (whole, broken):
        world.stores.close()


def live(world: World, max_records: int) -> None:
    """Events arrive, requests are answered from what has, and all is archived."""
    rows = events(60)
    for number, first in enumerate(range(0, len(rows), 9)):
        world.send(rows[first : first + 9])
        world.stream("users", max_records=max_records)  # a new agent each time, from the stored states
        newest = max(row["event_time"] for row in rows[: first + 9])
        # At the newest event, a microsecond before it, three hours after it to the microsecond, within the lateness.
        for turn, back in enumerate((0, 1, -3 * HOUR, 1800 * SECOND)):
            ask(world, 4 * number + turn, newest - back)
        world.answer()
    world.archive()


@pytest.mark.parametrize("max_records", [1, 7])
def test_what_is_served_live_is_what_duckdb_recomputes(tmp_path: Path, max_records: int) -> None:
    world = opened(tmp_path / "shop")
    live(world, max_records)
    found = consistency_of(world.project, world.stores)
    assert found.mismatched == 0
    assert {f.feature for f in found.features} == set(FEATURES)
    assert min(f.compared for f in found.features) > 100
    assert {f.feature for f in found.features if f.late} >= {"last_kinds", "counts", "spent", "mean_of_five", "events"}
    world.stores.close()


def bound_exclusive(patch: pytest.MonkeyPatch) -> None:
    """An event exactly at the lower bound is left out."""
    whole = pick.window_ranges

    def ranges(starts: Any, times: Any, keys: Any, at: Any, size: int, *rest: Any) -> None:
        whole(starts, times, keys, at, size - 1, *rest)

    patch.setattr(pick, "window_ranges", ranges)


def ties_reversed(patch: pytest.MonkeyPatch) -> None:
    """Of events at one time, the one that came first counts as the last."""
    whole = gather._by_key

    def by_key(layout: CollectionLayout, *rest: Any) -> Entries:
        found = whole(layout, *rest)
        return found.take(np.lexsort((-found.words[:, 1], found.words[:, 0], found.owners)))

    patch.setattr(gather, "_by_key", by_key)


def filters_ignored(patch: pytest.MonkeyPatch) -> None:
    """Every row with a value counts, whatever its filter says."""
    whole = StreamEngine.apply_in_chunks

    def apply(self: StreamEngine, blobs: Any, rows: Any, read: Any) -> Any:
        for collected in rows.collected:
            collected.counts[:] = collected.not_null
        return whole(self, blobs, rows, read)

    patch.setattr(StreamEngine, "apply_in_chunks", apply)


def partials_lost(patch: pytest.MonkeyPatch) -> None:
    """Partials of a hop leave the state before their window has passed them."""
    whole = UpdatePlan.of

    def of(layout: Layout) -> UpdatePlan:
        plan = whole(layout)
        plan.steps[:, 1] -= 20 * HOUR
        return plan

    patch.setattr(UpdatePlan, "of", of)


def late_rows_lost(patch: pytest.MonkeyPatch) -> None:
    """A row behind the watermark is dropped instead of merged."""
    whole = gather._fresh

    def fresh(collection: Collection, index: int, rows: PreparedRows) -> Entries:
        found = whole(collection, index, rows)
        late = set(rows.event_time[rows.event_time < rows.watermark_before].tolist())
        return found.take(np.flatnonzero([time not in late for time in found.words[:, 0].tolist()]))

    patch.setattr(gather, "_fresh", fresh)


def nulls_counted(patch: pytest.MonkeyPatch) -> None:
    """A row without a value is among the last and the first."""
    whole = gather._fresh

    def fresh(collection: Collection, index: int, rows: PreparedRows) -> Entries:
        if collection.rule == BEST:
            rows.collected[index].counts[:] |= ~rows.collected[index].not_null
        return whole(collection, index, rows)

    patch.setattr(gather, "_fresh", fresh)


def unseen_rows_visible(patch: pytest.MonkeyPatch) -> None:
    """Values hold one message more of each partition than the snapshot says they do."""
    whole = serving._dense
    patch.setattr(serving, "_dense", lambda progress: [max(0, offset - 1) for offset in whole(progress)])


@pytest.mark.parametrize(
    ("mutant", "feature"),
    [
        (bound_exclusive, "counts"),
        (ties_reversed, "last_kinds"),
        (filters_ignored, "first_clicked"),
        (partials_lost, "events"),
        (late_rows_lost, "spent"),
        (nulls_counted, "last_kinds"),
        (unseen_rows_visible, "events"),
    ],
)
def test_the_command_catches_a_broken_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None], feature: str
) -> None:
    world = opened(tmp_path / "shop")
    with monkeypatch.context() as patched:
        mutant(patched)
        live(world, 7)
    result = CliRunner().invoke(app, ["consistency", "--project", str(world.folder), "--json"])
    assert result.exit_code == 1
    wrong = {f["feature"] for f in json.loads(result.stdout)["features"] if f["mismatched"]}
    assert feature in wrong
    world.stores.close()
