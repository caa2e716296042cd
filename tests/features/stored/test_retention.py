"""Feature state leaves by event time, and no served value can tell."""

from __future__ import annotations

import pyarrow as pa

from dovetail.app.reports import consistency_of
from dovetail.features.stream.keys import encode_keys
from tests.features.stored.stored_world import DAY, HOUR, START, World

LATENESS, WINDOW, STEP = HOUR, DAY, HOUR


def held(world: World, users: list[str]) -> list[bool]:
    keys, _ = encode_keys([pa.array(users)])
    states = [world.stores.online.read_partition("users", partition, keys) for partition in (0, 1)]
    return [any(found) for found in zip(*states, strict=True)]


def test_states_leave_and_what_is_served_stays_right(world: World) -> None:
    """Every day four new users and one that stays; requests ask for today's, yesterday's and long-gone users."""
    assert world.project.stream_views["users"].retention_us == LATENESS + WINDOW + STEP
    for day in range(6):
        for n in range(4):
            now = START + day * DAY + n * HOUR
            event = {"kind": "click", "price": n, "event_time": now}
            world.send([{**event, "user_id": f"new{day}-{n}"}, {**event, "user_id": f"faithful{n % 2}"}])
            world.stream("users")
            for user in (f"new{day}-{n}", f"new{max(day - 1, 0)}-{n}", f"new0-{n}", f"faithful{n % 2}"):
                asked = {"request_id": f"r{day}-{n}-{user}", "user_id": user, "candidates": [{"item_id": 1}]}
                world.ask([{**asked, "request_time": now}])
            world.answer()
    world.archive()
    found = consistency_of(world.project, world.stores)
    assert found.mismatched == 0
    assert next(f for f in found.features if f.feature == "clicks").compared > 60
    gone, kept = [f"new{day}-{n}" for day in range(4) for n in range(4)], [f"new5-{n}" for n in range(4)]
    assert not any(held(world, gone))
    assert all(held(world, [*kept, "faithful0", "faithful1"]))


def test_a_view_with_an_unbounded_window_keeps_everything(world: World) -> None:
    world.write(
        "users",
        "SELECT user_id, count(*) OVER ever AS clicks FROM events WINDOW ever AS (PARTITION BY user_id "
        "ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
    )
    world.write("ranking", "SELECT request_id, item_id, users.clicks FROM request LEFT JOIN users USING (user_id)")
    assert world.load().stream_views["users"].retention_us is None
