"""What a call of rank is told is what its snapshot says, bit for bit, while events come and models are replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dovetail.api.bodies import ARROW
from dovetail.platform.rows import wire
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.api.running import Running, on_a_worker
from tests.app.small_project import TOML, at, request, write_project
from tests.generated import tries
from tests.onnx.made_models import linear

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'dovetail-samples[onnx]'")

#: `make nightly` asks 10,000 times.
REQUESTS = tries(125)
RANKERS, USERS = 4, 5
SCORER = '[scorer]\nonnx = "ranker.onnx"\ninputs = { features = ["events"] }\nmissing = 0.0\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_project(tmp_path / "project", f'{TOML}\n{SCORER}\n[api]\nport = 0\ntimeout = "10m"\n', messages={})
    put(tmp_path / "project", 1)
    return tmp_path / "project"


def put(folder: Path, version: int) -> None:
    """A model of that version takes the place of the one before; each scores otherwise."""
    (folder / "draft").write_bytes(linear([0.01 * version], version=version))
    (folder / "draft").replace(folder / "ranker.onnx")


def told(answer: Any) -> pa.Table:
    """An answer in JSON as a table."""
    columns = {name: pa.array(answer["features"][name]) for name in ("events",)}
    scores = pa.array(np.array(answer["scores"], np.float32))
    versions = pa.array([answer["model_version"]] * len(answer["items"]))
    return pa.table({"item_id": answer["items"], **columns, "score": scores, "model_version": versions})


def snapshots_in(folder: Path) -> pa.Table:
    tables = []
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        for partition, end in log.end_offsets("snapshots").items():
            offset = 0
            while offset < end and (poll := log.read("snapshots", partition, offset)) is not None:
                tables.append(wire.decode_arrow(poll))
                offset = poll.last + 1
    return pa.concat_tables(tables)


@pytest.mark.slow
def test_answers_are_the_snapshots_bit_for_bit_while_events_come(folder: Path) -> None:
    async def work(running: Running) -> dict[str, pa.Table]:
        answers: dict[str, pa.Table] = {}

        async def feed() -> None:
            number = 0
            while len(answers) < REQUESTS:
                events = [{"user_id": f"u{(number + n) % USERS}", "event_time": at(number % 600)} for n in range(3)]
                assert (await running.post("/v1/events/behaviour", events)).status_code == 200
                number += 1
                if number % 20 == 0:
                    put(folder, 1 + number // 20)

        async def rank(first: int) -> None:
            for number in range(first, REQUESTS, RANKERS):
                asked = request(f"r{number}", f"u{number % USERS}", [1, 2, 3], 600)
                accept = {"accept": ARROW} if number % 2 else {}
                answer = await running.post("/v1/rank?features=true", asked, headers=accept)
                assert answer.status_code == 200, answer.text
                table = pa.ipc.open_stream(answer.content).read_all() if number % 2 else told(answer.json())
                answers[asked["request_id"]] = table

        await asyncio.gather(feed(), *(rank(first) for first in range(RANKERS)))
        return answers

    answers = on_a_worker(folder, work)
    recorded = snapshots_in(folder)
    assert len(answers) == REQUESTS
    assert recorded.num_rows == 3 * REQUESTS
    for name, answer in answers.items():
        mine = recorded.filter(pa.compute.equal(recorded.column("request_id"), name))
        names = ["item_id", "events", "score", "model_version"]
        for column in names:
            said, kept = (table.column(column).combine_chunks() for table in (answer, mine))
            assert said.cast(kept.type).equals(kept), (name, column)
    events, versions = (set(recorded.column(name).to_pylist()) for name in ("events", "model_version"))
    assert len(events) > 5
    assert len(versions) > 1
