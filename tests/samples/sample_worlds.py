"""A project whose samples topic is filled by hand, and archived as far as a test likes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dovetail.app.datasets import datasets
from dovetail.app.storage import open_stores
from dovetail.features import load
from dovetail.platform.archive.writer import ArchiveStage
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.platform.rows.encodings.shared import share
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import TOML, write_project

DAY_US = 86_400_000_000
PARTITIONS = 2
#: The first offset of a message with lists once per request.
PLAIN_UNTIL = 3
#: How a message is made: its partition, its candidates, and whether it is published a second time right after.
Message = tuple[int, int, bool]


def history_of(request: str) -> list[str | None] | None:
    """What the candidates of a request share, which differs by request: NULL, empty, or with a NULL."""
    offset = int(request.split("-")[1])
    return None if offset % 7 == 3 else [request, None, "x"][: offset % 4]


def sample_rows(partition: int, offset: int, candidates: int) -> pa.Table:
    """The samples of one request, of a day that moves on with its offset.

    The first ones have what their candidates share in each row, as samples once had.
    """
    request = f"{partition}-{offset}"
    rows = pa.table(
        {
            "request_id": [request] * candidates,
            "item_id": pa.array(range(candidates), pa.int64()),
            "request_time": pa.array([1_704_067_200_000_000 + offset * DAY_US // 4] * candidates, pa.timestamp("us")),
            "label": pa.array([offset % 2] * candidates, pa.int8()),
            "weight": pa.array([1.0] * candidates, pa.float32()),
            "_source_partition": pa.array([partition] * candidates, pa.int32()),
            "_source_offset": pa.array([offset] * candidates, pa.int64()),
            "_source_row": pa.array(range(candidates), pa.int32()),
        }
    )
    lists = pa.array([history_of(request)], pa.list_(pa.string()))
    history = pa.DictionaryArray.from_arrays(pa.array([0] * candidates, pa.int32()), lists)
    rows = rows.append_column("history", history)
    return share(rows) if offset >= PLAIN_UNTIL else decoded(rows)


class World:
    """A project whose samples topic is filled by hand, and archived as far as one likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_project(folder, TOML.replace("[request]", f"[request]\npartitions = {PARTITIONS}"), messages={})
        self.log = EmbeddedLog.open(folder / "state" / "log.sqlite")
        self.log.create_topic("samples", PARTITIONS)
        self.project = load(folder)
        self.stores = open_stores(self.project.config)
        self.expected: list[tuple[str, int]] = []
        self.sent = dict.fromkeys(range(PARTITIONS), 0)

    def send(self, messages: Sequence[Message]) -> None:
        for partition, candidates, again in messages:
            offset = self.sent[partition]
            self.sent[partition] += 1
            value = wire.encode(sample_rows(partition, offset, candidates))
            self.log.append([Outgoing("samples", value, partition=partition)] * (2 if again else 1))
            self.expected += [(f"{partition}-{offset}", item) for item in range(candidates)]

    def archive(self, messages: int, max_rows: int) -> None:
        """So many further messages of each partition."""
        (dataset,) = (each for each in datasets(self.project) if each.name == "samples")
        stage = ArchiveStage(dataset, self.stores.registry, self.stores.offline, max_rows=max_rows, max_delay_us=0)

        async def run() -> None:
            at = stage.resume("samples")
            for partition in range(PARTITIONS):
                for offset in range(at.get(partition, 0), at.get(partition, 0) + messages):
                    poll = self.log.read("samples", partition, offset, max_records=1)
                    if poll is not None:
                        async for work in stage.handle(poll):
                            assert work.commit is not None
                            work.commit()
                async for work in stage.settle("samples", partition, stopping=True):
                    assert work.commit is not None
                    work.commit()

        asyncio.run(run())

    def close(self) -> None:
        self.log.close()
        self.stores.close()
