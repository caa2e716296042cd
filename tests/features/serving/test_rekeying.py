"""Re-keyed streams: each row once and at its key's partition, whatever crashes; stream and batch agree on values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from dovetail.app.datasets import datasets, stream_intake
from dovetail.features import Project, load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.partitions import partitions_of
from dovetail.platform.archive.writer import ArchiveStage, read_dataset
from dovetail.platform.errors import ConfigError, DefinitionError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing, Stage
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage

TOML = """
[streams.event]
key = "user"
partitions = 3
allowed_lateness = "2h"
[rekeyed.event_by_item]
stream = "event"
key = "item_id"
partitions = 4
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
WINDOW = (
    "WINDOW w AS (PARTITION BY item_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)"
)
SQL = {
    "schemas.sql": f"""
        CREATE TABLE event (user VARCHAR, item_id BIGINT, event_time TIMESTAMP NOT NULL, n BIGINT);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, request_time TIMESTAMP NOT NULL,
            candidates STRUCT(item_id BIGINT)[] NOT NULL);
        CREATE TABLE exposure {LABEL} CREATE TABLE click {LABEL}
    """,
    # last() depends on the order of rows of one time, which is that of the re-keyed topic.
    "item.sql": f"SELECT item_id, count(*) OVER w AS events, sum(1000 // n) OVER w AS shares, last(user) OVER w AS who "
    f"FROM event_by_item {WINDOW};",
    "ranking.sql": """
        SELECT request_id, item_id, item.events, item.shares, item.who FROM request LEFT JOIN item USING (item_id);
    """,
}
TARGETS = 4


class Crash(Exception):
    """The process is gone."""


class Shop:
    """A project, its stores and its topics; stages are made anew after each crash."""

    def __init__(self, folder: Path) -> None:
        (folder / "sql").mkdir()
        (folder / "dovetail.toml").write_text(TOML)
        for name, text in SQL.items():
            (folder / "sql" / name).write_text(text)
        self.project: Project = load(folder)
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        self.online = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        self.offline = OfflineStore(str(folder / "offline"))
        self.log = MemoryLog({"event": 3, "event_by_item": TARGETS, "dead": 1})

    def rekey(self) -> Stage:
        return RekeyStage(
            self.project.streams["event_by_item"],
            "event",
            stream_intake(self.project, "event"),
            self.registry,
            partitions=TARGETS,
            dead_letter_topic="dead",
        )

    def features(self) -> Stage:
        stream, view = self.project.streams["event_by_item"], self.project.stream_views["item"]
        intake = stream_intake(self.project, "event_by_item")
        return FeatureStage(stream, [view], intake, self.online, dead_letter_topic="dead")

    def archive(self) -> Stage:
        (dataset,) = (d for d in datasets(self.project) if d.name == "event_by_item")
        return ArchiveStage(dataset, self.registry, self.offline)

    def run(self, make: Callable[[], Stage], rng: np.random.Generator, crashes: int = 0) -> None:
        """Run a stage to the end of its topic; so many times it dies at a random step, and is made anew."""
        for left in range(crashes, -1, -1):
            dies_at, steps = int(rng.integers(1, 30)), 0

            def on_step(_stage: str, _step: str) -> None:
                nonlocal steps
                steps += 1
                if left and steps == dies_at:  # noqa: B023 - called within this turn of the loop
                    raise Crash

            try:
                asyncio.run(
                    run_stage(
                        make(), self.log, max_records=lambda: int(rng.integers(1, 40)), on_step=on_step, drain=True
                    )
                )
            except Crash:
                continue

    def topic(self) -> pa.Table:
        """Everything in the re-keyed topic, repetitions included, in log order by partition."""
        polls = [self.log.poll("event_by_item", partition, 0) for partition in range(TARGETS)]
        return pa.concat_tables([wire.decode_arrow(poll) for poll in polls if poll is not None])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def send(log: MemoryLog, rng: np.random.Generator, n: int = 300) -> None:
    """Events of a morning, late ones and several at one time among them; a few without item; a poison one."""
    for i in range(n):
        minute = max(0, i // 3 - int(rng.integers(0, 20)))
        user = int(rng.integers(9))
        row = {
            "user": f"u{user}",
            "item_id": None if rng.random() < 0.03 else int(rng.integers(12)),
            "event_time": f"2024-01-01T{minute // 60:02d}:{minute % 60:02d}:00Z",
            "n": 0 if i == n // 2 else int(rng.integers(1, 9)),
        }
        stamp = 1_704_067_200_000 + 60_000 * (i // 3)
        log.append([Outgoing("event", json.dumps(row).encode(), partition=user % 3, timestamp_ms=stamp)])


@given(st.lists(st.text(max_size=40)), st.integers(1, 1000))
def test_a_key_goes_where_kafkas_own_partitioner_sends_it(keys: list[str], partitions: int) -> None:
    expected = [(murmur2(key.encode()) & 0x7FFFFFFF) % partitions for key in keys]
    assert partitions_of(pa.array(keys, pa.string()), partitions).tolist() == expected
    sliced = pa.chunked_array([pa.array(["x", *keys], pa.string())[1:]], pa.string())
    assert partitions_of(sliced, partitions).tolist() == expected


def test_numbers_are_hashed_as_their_text_and_null_as_none() -> None:
    expected = [(murmur2(text) & 0x7FFFFFFF) % 7 for text in (b"12", b"-3", b"")]
    assert partitions_of(pa.array([12, -3, None]), 7).tolist() == expected


@pytest.mark.parametrize("seed", range(12))
def test_whatever_crashes_each_row_counts_once_and_values_are_those_of_batch(shop: Shop, seed: int) -> None:
    rng = np.random.default_rng(seed)
    send(shop.log, rng)
    shop.run(shop.rekey, rng, crashes=4)
    shop.run(shop.archive, rng, crashes=2)
    shop.run(shop.features, rng, crashes=4)

    topic = shop.topic()
    keys = topic.group_by("item_id").aggregate([("_partition", "count_distinct")])
    assert keys.column("_partition_count_distinct").to_pylist() == [1] * keys.num_rows
    kept = read_dataset(shop.registry, shop.offline, "event_by_item")
    positions = list(zip(*(kept.column(name).to_pylist() for name in SOURCE_COLUMNS), strict=True))
    assert len(positions) == len(set(positions)) == 299  # all but the poison one
    assert set(positions) == set(zip(*(topic.column(name).to_pylist() for name in SOURCE_COLUMNS), strict=True))

    accounts = [*shop.registry.accounts(), *shop.online.accounts()]
    assert not any(balance(accounts).values())
    counted = {(a.stage, a.outcome): 0 for a in accounts}
    for account in accounts:
        counted[account.stage, account.outcome] += account.rows
    assert counted["rekey.event_by_item", "rekeyed"] == 299
    assert counted["rekey.event_by_item", "dead_letter"] == 1
    assert counted["archive.event_by_item", "archived"] == 299
    assert counted.get(("features.item", "duplicate"), 0) == topic.num_rows - 299

    times = pa.array(["2024-01-01 01:35:00"] * 12).cast(pa.timestamp("us"))
    requests = pa.table(
        {
            "request_id": [f"r{i}" for i in range(12)],
            "user": ["u0"] * 12,
            "request_time": times,
            "candidates": [[{"item_id": i}] for i in range(12)],
        },
        schema=shop.project.request.arrow,
    )
    flat = flatten_requests(requests)
    served = _serving(shop).serve(flat)
    assert served.answerable.all()
    in_order = kept.sort_by([(name, "ascending") for name in ("_partition", "_offset", "_row")])
    batch = shop.project.evaluate(None, flat, {"event": in_order, "event_by_item": in_order})
    assert batch.column("events").to_pylist() != [0] * 12
    assert served.features.equals(batch)


def test_crashes_do_publish_again(shop: Shop) -> None:
    """Otherwise the test above would show nothing."""
    rng = np.random.default_rng(0)
    send(shop.log, rng)

    def on_step(_stage: str, step: str) -> None:
        if step == "published":
            raise Crash

    for _ in range(2):
        with pytest.raises(Crash):
            asyncio.run(run_stage(shop.rekey(), shop.log, on_step=on_step))
    shop.run(shop.rekey, rng)
    shop.run(shop.archive, rng)
    assert shop.topic().num_rows > 299
    assert read_dataset(shop.registry, shop.offline, "event_by_item").num_rows == 299


def _serving(shop: Shop) -> OnlineFeatures:
    versions = BatchVersions(shop.project.batch_views, shop.registry, shop.offline, lambda table: table)
    return OnlineFeatures(shop.project.feature_set, shop.project.stream_views, shop.online, versions)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            'stream = "event"',
            'stream = "events"',
            ConfigError,
            "rekeyed.event_by_item.stream: 'events' is not declared; write one of event",
        ),
        ("[rekeyed.event_by_item]", "[rekeyed.event]", ConfigError, "rekeyed.event: there is a stream of this name"),
        ('key = "item_id"', 'key = "thing"', DefinitionError, "the key of re-keyed stream event_by_item needs column"),
        ('key = "item_id"', 'key = "item_id"\ntopic = "event"', ConfigError, "topic 'event' is declared twice"),
        ("partitions = 4", "partition = 4", ConfigError, "did you mean 'partitions'"),
    ],
)
def test_what_cannot_be_re_keyed_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    shop = Shop(tmp_path)
    assert old in TOML
    (tmp_path / "dovetail.toml").write_text(TOML.replace(old, new))
    with pytest.raises(error, match=message):
        load(shop.project.config.root)


def test_a_re_keyed_stream_has_no_table_of_its_own(shop: Shop) -> None:
    root = shop.project.config.root
    (root / "sql" / "more.sql").write_text(
        "CREATE TABLE event_by_item (item_id BIGINT, event_time TIMESTAMP NOT NULL);"
    )
    with pytest.raises(DefinitionError, match="event_by_item is stream event re-keyed, and has its columns"):
        load(root)


def test_a_list_is_no_key_to_re_key_by(shop: Shop) -> None:
    root = shop.project.config.root
    schemas = next(file for file in (root / "sql").glob("*.sql") if "CREATE TABLE event " in file.read_text())
    schemas.write_text(schemas.read_text().replace("n BIGINT)", "n BIGINT, tags VARCHAR[])"))
    (root / "dovetail.toml").write_text(TOML.replace('key = "item_id"', 'key = "tags"'))
    with pytest.raises(
        DefinitionError, match=r"tags, the key of re-keyed stream event_by_item, is list<.*>, which makes"
    ):
        load(root)
