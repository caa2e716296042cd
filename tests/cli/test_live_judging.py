"""The worker looks for windows of data quality that have ended, again and again, and goes on where that fails."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from dovetail.app.quality.live import LiveQuality
from dovetail.app.worker import assemble
from dovetail.cli import worker as command
from dovetail.features import load
from dovetail.platform.errors import StoreError
from tests.app.small_project import TOML, write_project


class Looked:
    """Fails at the first look; done after the third."""

    def __init__(self) -> None:
        self.looks, self.done = 0, asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def look(self) -> list[Any]:
        self.looks += 1
        if self.looks == 1:
            raise StoreError("redis://me:secret@host is away")
        if self.looks == 3:
            self._loop.call_soon_threadsafe(self.done.set)
        return []


def test_a_look_that_fails_is_a_warning_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "_LOOK_S", 0)

    async def main() -> None:
        looked = Looked()
        judging = asyncio.ensure_future(command._judge(cast("LiveQuality", looked)))
        async with asyncio.timeout(60):
            await looked.done.wait()
        judging.cancel()
        await asyncio.wait({judging})
        assert judging.cancelled()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "quality not judged" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("more", "roles", "judges"),
    [
        ("", ["archive"], False),
        ("[quality]\nlive = true\n", ["archive"], True),
        ("[quality]\nlive = true\n", ["features"], False),
    ],
)
def test_a_worker_judges_where_it_is_told_to_and_archives(
    tmp_path: Path, more: str, roles: list[str], judges: bool
) -> None:
    write_project(tmp_path, TOML + more, {})
    worker = assemble(load(tmp_path), roles=roles)
    live = command._live_quality(worker, CollectorRegistry())
    assert (live is not None) == judges
    assert live is None or live.look() == []
    worker.stores.close()
