"""State that tasks fold is the state that one process folds: same bytes, same positions, same accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.folding import in_tasks
from dovetail.features.stream.keys import encode_keys
from dovetail.platform.errors import StaleCommit, StateError
from dovetail.platform.stores.online import OnlineStore
from dovetail.spark import SparkDays
from tests.features.stored.stored_world import FILES, World, events
from tests.spark.in_process import InProcess

#: Views of every kind of state: steps and raw rows, lists in chunks, rows windows, and without bound.
VIEWS = {
    "users": FILES["users"],
    "newest": """
SELECT user_id, arg_max(kind, event_time, 2000) OVER w AS kinds, newest(list(price) OVER w, 3) AS prices FROM events
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 2 DAY PRECEDING AND CURRENT ROW)
""",
    "ever": """
SELECT user_id, count(DISTINCT kind) OVER w AS kinds, count(*) OVER r AS last_rows FROM events
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
       r AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)
""",
    "both": """
SELECT user_id, count(*) OVER w AS rows
FROM (SELECT user_id, kind, event_time FROM events WHERE kind = 'click'
      UNION ALL SELECT user_id, kind, event_time FROM events WHERE price > 40)
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)
""",
}


@pytest.fixture
def archived(tmp_path: Path) -> World:
    world = World(tmp_path / "shop", files={**FILES, **VIEWS})
    world.send(events(400))
    world.archive("events")
    return world


def fill(world: World, view: str, engine: SparkDays | None = None, **options: Any) -> tuple[Any, ...]:
    """The rows read, positions and watermarks, every state, chunks included, and what is accounted for."""
    stores = world.stores
    each = None if engine is None else engine.each
    plan = world.project.stream_views[view]
    result = bootstrap(
        plan, stores.registry, stores.offline, stores.online, replace_existing=True, each=each, **options
    )
    online = stores.online
    known = {p: (x.next_offset, x.watermark_us) for p, x in online.progress(view).items()}
    keys = sorted({*online.keys(view, 100_000), *encode_keys([pa.chunked_array([[f"u{n}" for n in range(5)]])])[0]})
    states = [
        (p, key, state) for p in known for key, state in zip(keys, online.read_partition(view, p, keys), strict=True)
    ]
    mine = sorted(a for a in online.accounts() if a.stage.startswith(f"features.{view}"))
    assert not list(Path(stores.offline.path("")).rglob("bootstrap/**/*.partial")), "drafts are removed"
    return result, known, [state for state in states if state[2] is not None], mine


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", [None, 1])
def test_the_state_is_that_of_one_process(archived: World, view: str, seed: int | None) -> None:
    expected = fill(archived, view)
    assert expected[2]
    assert fill(archived, view, SparkDays(InProcess(seed))) == expected


def test_states_are_put_in_place_in_parts(archived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fill(archived, "users")
    monkeypatch.setattr(in_tasks, "_STATES_AT_ONCE", 1)
    assert fill(archived, "users", SparkDays(InProcess())) == expected


def test_a_driver_that_ends_on_the_way_is_gone_on_from(archived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_tasks, "_STATES_AT_ONCE", 1)
    store, commits = type(archived.stores.online), 0
    whole: Callable[..., None] = store.commit

    def dies(self: OnlineStore, *arguments: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 5:
            raise KeyboardInterrupt
        whole(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            fill(archived, "users", SparkDays(InProcess()))
    archived.send(events(20, first=400))
    archived.archive("events")  # what is in place by now is of less
    assert fill(archived, "users", SparkDays(InProcess())) == fill(archived, "users")


def test_what_the_stream_has_changed_meanwhile_is_not_replaced(archived: World) -> None:
    def late(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        made = [function(item) for item in items]
        archived.stream("users")
        return made

    stores = archived.stores
    with pytest.raises(StaleCommit):
        bootstrap(archived.project.stream_views["users"], stores.registry, stores.offline, stores.online, each=late)


def test_an_error_of_a_task_is_the_one_of_one_process(archived: World) -> None:
    file = archived.stores.registry.files("events")[3]
    archived.stores.offline.write(file.path, archived.stores.offline.read(file.path).slice(1))
    with pytest.raises(StateError, match="rows instead of") as here:
        fill(archived, "users")
    with pytest.raises(StateError) as there:
        fill(archived, "users", SparkDays(InProcess()))
    assert str(there.value) == str(here.value)
