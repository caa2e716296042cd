"""A worker and its API killed at random: all that was acknowledged is there, once, and answers are what is recorded."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from dovetail.api.idempotence import IDEMPOTENCY_KEY
from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.worker import assemble
from dovetail.cli.stored import audit
from dovetail.platform.archive.writer import read_dataset
from dovetail.sdk import EmbeddedFlow
from tests.api.test_process import serving
from tests.app.small_project import TOML, at, click, exposure, project_in, request, write_project
from tests.generated import tries

ROLES = ("features", "snapshots", "labels", "samples", "archive")
#: Lives that end by a kill; `make nightly` takes more.
LIVES = min(25, max(2, tries(3)))
DECLARED = (
    TOML.replace('key = "user_id"\n', 'key = "user_id"\nunique_within = "1h"\n')
    .replace("[labels.streams.exposure]\n", '[labels.streams.exposure]\nunique_within = "1h"\n')
    .replace("[request]\n", '[request]\nunique_within = "1h"\n')
)


NOON = datetime(2024, 1, 1, 12)  # noqa: DTZ001 - times of events have no zone, and are UTC


class Client:
    """A client that sends each call until it is acknowledged, over as many lives as it takes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.number = 0
        self.acknowledged: set[int] = set()
        #: By request, the bytes that it was answered with.
        self.told: dict[str, bytes] = {}

    def live(self, url: str, kill: Callable[[], None]) -> None:
        """Calls until the server dies, which is while one of the first few is under way."""
        under_way, fatal = threading.Event(), int(self.random.integers(2, 60))

        def wait_and_kill() -> None:
            under_way.wait(60)
            kill()

        killer = threading.Thread(target=wait_and_kill)
        killer.start()

        def count(_: httpx.Request) -> None:
            nonlocal fatal
            fatal -= 1
            if fatal == 0:
                under_way.set()

        hooks = {"request": [count]}
        with httpx.Client(base_url=url, timeout=60, event_hooks=hooks) as client, suppress(httpx.TransportError):
            while True:
                self._step(client)
                self.number += 1
        killer.join()

    def _step(self, client: httpx.Client) -> None:
        number, second = self.number, self.number
        event = {"user_id": f"u{number % 3}", "event_time": at(second)}
        answer = client.post("/v1/events/behaviour", json=[event] * 2, headers={IDEMPOTENCY_KEY: f"e{number}"})
        assert answer.status_code == 200, answer.text
        self.acknowledged.add(number)
        if number % 2 == 0:
            name = f"r{number}"
            ranked = client.post("/v1/rank?features=true", json=request(name, f"u{number % 3}", [1, 2], second))
            assert ranked.status_code == 200, ranked.text
            assert self.told.setdefault(name, ranked.content) == ranked.content
            seen = [exposure(name, item, second + 1) for item in (1, 2)]
            key = {IDEMPOTENCY_KEY: f"x{number}"}
            assert client.post("/v1/labels/exposure", json=seen, headers=key).status_code == 200
            assert client.post("/v1/labels/click", json=click(f"u{number % 3}", 1, second + 2)).status_code == 200


def answers_of(snapshots: pa.Table) -> dict[str, bytes]:
    """By request, the bytes of an answer with features and positions that says what is recorded."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in snapshots.to_pylist():
        rows.setdefault(row["request_id"], []).append(row)
    return {
        name: json.dumps(
            {
                "request_id": name,
                "model_version": mine[0]["model_version"],
                "items": [row["item_id"] for row in mine],
                "scores": [row["score"] for row in mine],
                "features": {"events": [row["events"] for row in mine]},
                "seen": {"activity": mine[0]["_seen_activity"]},
            },
            separators=(",", ":"),
        ).encode()
        for name, mine in rows.items()
    }


@pytest.mark.slow
def test_killed_at_random_nothing_acknowledged_is_lost_and_the_verdicts_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    write_project(folder, f"{DECLARED}\n[api]\nport = 0\n", messages={})
    client = Client(seed=11)
    for _ in range(LIVES):
        with serving(folder, "worker") as (process, url):
            client.live(url, process.kill)
            assert process.wait() == -9

    with EmbeddedFlow(folder) as flow:
        flow.until_idle()
    worker = assemble(project_in(folder), roles=ROLES)
    try:
        books = audit_worker(worker)
        assert books.balanced, books.unbalanced
        checked = consistency_of(worker.project, worker.stores)
        assert checked.mismatched == 0
        events = read_dataset(worker.stores.registry, worker.stores.offline, "behaviour")
        snapshots = read_dataset(worker.stores.registry, worker.stores.offline, "snapshots")
    finally:
        worker.stores.close()
    times = Counter((time - NOON).seconds for time in events.column("event_time").to_pylist())
    # One that was not acknowledged may be there, too: the call that died.
    assert len(client.acknowledged) > LIVES
    assert client.acknowledged <= set(times) <= {*client.acknowledged, client.number}
    assert set(times.values()) == {2}
    recorded = answers_of(snapshots)
    assert {name: recorded[name] for name in client.told} == client.told
    assert audit.run(folder, "", None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["balanced"]
