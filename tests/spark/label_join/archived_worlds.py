"""Generated archives of snapshots and labels: rows in any order, files cut anywhere, settings that change."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.storage import Stores, open_stores
from dovetail.features import Project, load
from dovetail.joiners.meanings.label_meaning import meaning_of
from dovetail.platform.rows.positions import Progress, own_position_columns
from dovetail.platform.stores.registry.store import DataFile
from tests.app.small_project import TOML, write_project

__all__ = [
    "ATTRIBUTED",
    "CLICK",
    "EXPOSURE",
    "PARTITIONS",
    "REQUESTS",
    "SECOND",
    "SNAPSHOTS",
    "START_US",
    "ArchivedWorld",
    "archived_world",
    "write_flush",
    "write_settings",
]

SECOND = 1_000_000
#: Ten minutes before the end of 2024-01-01 UTC.
START_US = 1_704_153_000_000_000
PARTITIONS = 2
ATTRIBUTED = 'attribute = "latest_request"\nattribute_within = "4m"\n'
POLICIES = (
    'window = "5m"\ncorrections = "5m"\nnegative_fraction = 0.5\nunexposed_fraction = 0.3',
    'window = "5m"\npolicy = "fast_emit"\nemit_after = ["30s", "1m"]',
    'window = "5m"\npolicy = "return_days"\ndays = [1, 2]',
)
_OWN = own_position_columns()
_LABEL = {"item_id": pa.int64(), "event_time": pa.timestamp("us")}
EXPOSURE = pa.schema([("request_id", pa.string()), *_LABEL.items(), *_OWN])
CLICK = pa.schema([("user_id", pa.string()), *_LABEL.items(), *_OWN])
CANDIDATES = pa.list_(pa.struct([("item_id", pa.int64())]))
ASKED = [("request_id", pa.string()), ("user_id", pa.string()), ("request_time", pa.timestamp("us"))]
REQUESTS = pa.schema([*ASKED, ("candidates", CANDIDATES), *_OWN])
ANNOUNCED = pa.schema([("request_time", pa.timestamp("us")), *_OWN])
SNAPSHOTS = pa.schema(
    [
        ("request_id", pa.string()),
        ("item_id", pa.int64()),
        ("request_time", pa.timestamp("us")),
        ("_request", pa.struct([("user_id", pa.string()), ("_candidate", pa.int32())])),
        ("events", pa.int64()),
        ("score", pa.float32()),
        ("model_version", pa.int64()),
        ("_label_meaning", pa.int64()),
        *_OWN,
    ]
)


@dataclass(frozen=True)
class ArchivedWorld:
    """A project with archives, of which the stream has released what is before ``bounds``, by lane and partition."""

    folder: Path
    project: Project
    stores: Stores
    bounds: dict[tuple[int, int], int]


def archived_world(
    folder: Path,
    seed: int,
    *,
    requests: int = 12,
    labels: int = 90,
    hot: float = 0.0,
    attributed: bool | None = None,
    cuts: int = 3,
) -> ArchivedWorld:
    """The world of a seed; a share ``hot`` of its labels is of one request, user and item.

    ``attributed``: whether clicks name no request; drawn if left out. ``cuts``: between a partition's flushes, at most.
    """
    chance = random.Random(seed)
    if attributed is None:
        attributed = chance.random() < 0.6
    write_settings(folder, POLICIES[seed % 3], f"{chance.choice([0, 30])}s", attributed=attributed)
    project = load(folder)
    stores = open_stores(project.config)
    world = _Writer(stores, chance, cuts)
    marks = [0, *_meanings(project, stores, folder)]
    asked = [_asked(number, chance) for number in range(requests)]
    if chance.random() < 0.7:
        asked.sort(key=lambda row: row["request_time"])
    world.archive("requests", REQUESTS, asked, "request_time")
    gaps = [{"request_time": _time(chance)} for _ in range(3)]
    world.archive("requests.announced", ANNOUNCED, gaps, "request_time", first=200)
    world.archive(
        "snapshots", SNAPSHOTS, [_snapshots(row, chance.choice(marks), chance) for row in asked], "request_time"
    )
    for kind, schema in (("exposure", EXPOSURE), ("click", CLICK if attributed else EXPOSURE)):
        of = [asked[0] if chance.random() < hot else chance.choice(asked) for _ in range(labels)]
        rows = [_label(schema, one, chance, hot) for one in of]
        jitter = chance.choice([60, 600, 1_200]) * SECOND  # how far rows come out of order
        world.archive(
            kind, schema, sorted(rows, key=lambda row: row["event_time"] + chance.randrange(jitter)), "event_time"
        )
    bounds = {
        (lane, partition): chance.choice([3, 400, 400]) << 20 for lane in range(3) for partition in range(PARTITIONS)
    }
    return ArchivedWorld(folder, project, stores, bounds)


def write_settings(folder: Path, policy: str, lateness: str, *, attributed: bool) -> None:
    """A project whose samples are made by ``policy``; clicks name a user and no request where they are attributed."""
    toml = TOML.replace('window = "15m"\ncorrections = "15m"\n', f"{policy}\n")
    toml = toml.replace('attribute = "latest_request"\nattribute_within = "10m"\n', ATTRIBUTED if attributed else "")
    toml = toml.replace("[labels.order]\nblock_rows = 2\n", "").replace(
        "[labels]\n", f'[labels]\nallowed_lateness = "{lateness}"\n'
    )
    write_project(folder, toml, messages={})
    if not attributed:
        tables = folder / "sql" / "tables.sql"
        tables.write_text(tables.read_text().replace("click (user_id VARCHAR", "click (request_id VARCHAR"))


def write_flush(stores: Stores, dataset: str, table: pa.Table, time: str) -> None:
    """Archive rows of a partition, which have own positions, as a flush does: a file a day."""
    days = table.column(time).cast(pa.date32())
    partition, last = table.column("_partition")[0].as_py(), pc.max(table.column("_offset")).as_py()
    files = []
    for day in pc.unique(days).to_pylist():
        mine = table.filter(pc.equal(days, pa.scalar(day, pa.date32())))
        of = mine.column("_offset").to_pylist()
        path = f"{dataset}/day={day}/{partition:05d}-{min(of):012d}-{max(of):012d}.parquet"
        stores.offline.write(path, mine)
        files.append(DataFile(dataset, str(day), path, mine.num_rows, partition, min(of), max(of)))
    scope = f"archive.{dataset}"
    progress = stores.registry.progress(scope).get(partition, Progress())
    stores.registry.commit(
        scope, partition, expected=progress.next_offset, progress=Progress(last + 1), accounts=[], files=files
    )


def _meanings(project: Project, stores: Stores, folder: Path) -> list[int]:
    """Two settings that the project has had: as it is, and with another window."""
    toml = folder / "dovetail.toml"
    now = toml.read_text()
    found = []
    for text in (now.replace('window = "5m"', 'window = "2m"'), now):
        toml.write_text(text)
        meaning = meaning_of(load(folder).config.labels, project.label_schemas)
        stores.registry.add_label_settings(meaning.fingerprint, meaning.text)
        found.append(meaning.fingerprint)
    return found


def _time(chance: random.Random) -> int:
    return START_US + chance.randrange(1_200) * SECOND


def _asked(number: int, chance: random.Random) -> dict[str, Any]:
    items = [{"item_id": item} for item in chance.sample(range(5), chance.randrange(5))]
    return {
        "request_id": f"r{number % 10}",
        "user_id": chance.choice("uv"),
        "request_time": _time(chance),
        "candidates": items,
    }


def _snapshots(asked: dict[str, Any], mark: int, chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "request_id": asked["request_id"],
            "item_id": one["item_id"],
            "request_time": asked["request_time"],
            "_request": {"user_id": asked["user_id"], "_candidate": number},
            "events": chance.choice([None, number]),
            "score": chance.random(),
            "model_version": 1,
            "_label_meaning": mark or None,
        }
        for number, one in enumerate(asked["candidates"])
    ]


def _label(schema: pa.Schema, asked: dict[str, Any], chance: random.Random, hot: float) -> dict[str, Any]:
    time = asked["request_time"] + chance.choice([-1, 0, 1, 60, 200, 400, 700]) * SECOND
    if chance.random() < 0.1:
        return {"event_time": time}  # an announced watermark
    item = 0 if hot and asked["request_id"] == "r0" else chance.randrange(5)
    return {schema.names[0]: asked[schema.names[0]], "item_id": item, "event_time": time}


class _Writer:
    """Writes rows as the archive does: by partition, a file a day and flush."""

    def __init__(self, stores: Stores, chance: random.Random, cuts: int) -> None:
        self._stores, self._chance, self._cuts = stores, chance, cuts

    def archive(self, dataset: str, schema: pa.Schema, messages: Iterable[Any], time: str, first: int = 0) -> None:
        """Write messages, each a row or rows, to partitions drawn for each, offsets from ``first`` on."""
        logs: dict[int, list[dict[str, Any]]] = {number: [] for number in range(PARTITIONS)}
        offsets = dict.fromkeys(logs, first)
        for message in messages:
            partition = self._chance.randrange(PARTITIONS)
            for row, values in enumerate(message if isinstance(message, list) else [message]):
                at = {"_partition": partition, "_offset": offsets[partition], "_row": row}
                logs[partition].append({**values, **at})
            offsets[partition] += 1
        for partition, rows in logs.items():
            cuts = sorted(
                {0, offsets[partition], *(self._chance.randrange(first, first + 60) for _ in range(self._cuts))}
            )
            for low, high in itertools.pairwise(cuts):
                self._flush(dataset, schema, [row for row in rows if low <= row["_offset"] < high], time)

    def _flush(self, dataset: str, schema: pa.Schema, rows: list[dict[str, Any]], time: str) -> None:
        if not rows:
            return
        table = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in schema]))
        if dataset == "snapshots" and self._chance.random() < 0.3:  # written before there were several settings
            table = table.drop_columns(["_label_meaning"])
        if dataset == "snapshots" and self._chance.random() < 0.3:  # written before the column was wider
            at = table.column_names.index("events")
            table = table.set_column(at, "events", table.column("events").cast(pa.int32()))
        write_flush(self._stores, dataset, table, time)
