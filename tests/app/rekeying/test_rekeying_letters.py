"""A malformed event of a stream that is re-keyed is one dead letter, whoever else reads it; accounts agree."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dovetail.app.reports import audit_worker
from dovetail.app.worker import assemble
from dovetail.platform.rows.wire import letter_of
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import NOON_MS, TOML, VIEW, finished, project_in, write_project

REKEYED = '\n[rekeyed.again]\nstream = "behaviour"\nkey = "user_id"\npartitions = 2\n'


@pytest.mark.parametrize(
    ("read", "speaker"),
    [(("again",), "rekey.again"), (("again", "behaviour"), "features.behaviour")],
    ids=["re-keyed only", "both"],
)
def test_one_stage_sends_the_dead_letters_of_a_stream(tmp_path: Path, read: tuple[str, ...], speaker: str) -> None:
    folder = tmp_path / "project"
    write_project(folder, TOML + REKEYED)
    for number, stream in enumerate(read):
        name = "activity" if number == 0 else f"other{number}"
        (folder / "sql" / f"{name}.sql").write_text(VIEW.replace("FROM behaviour", f"FROM {stream}"))
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        log.append([Outgoing("behaviour", b"{", partition=0, timestamp_ms=NOON_MS)])

    async def live() -> None:
        worker = assemble(project_in(folder), roles=("rekey", "features", "archive"))
        try:
            await worker.runtime.start()
            await worker.runtime.wait_for(lambda: finished(worker))
            await worker.runtime.stop()
            assert audit_worker(worker).unbalanced == []
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    asyncio.run(live())
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        poll = log.read("small-dead-letters", 0, 0)
    assert poll is not None
    heads = [letter_of(headers) for headers in poll.headers]
    assert [(head.stage, head.partition, head.rows) for head in heads if head.topic == "behaviour"] == [(speaker, 0, 1)]
