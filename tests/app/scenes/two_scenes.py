"""The demo's project with a second scene, and a log of the simulator whose requests are of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate

ROOT = Path(__file__).resolve().parents[3]

FEED = """
[scenes.feed.request]
table = "feed_request"
feature_set = "feed"

[scenes.feed.labels]
window = "1h"
corrections = "1h"

[scenes.feed.labels.targets.bought]
positive = "conversion"
window = "2h"
samples_topic = "feed-bought"

[scenes.feed.model]
name = "feed"
inputs = [{ column = "clicks" }, { column = "rank" }, { column = "brand" }]
publish_every = 50
checkpoint_every = 100
"""
FEED_REQUEST = """
CREATE TABLE feed_request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT, rank INTEGER)[] NOT NULL
);
"""
FEED_FEATURES = """
SELECT feed_request.request_id, item_id, rank, user_activity.clicks_1h AS clicks, item_stats.clicks_1d AS item_clicks,
       item_profile.brand
FROM feed_request
LEFT JOIN user_activity USING (user_id)
LEFT JOIN item_stats USING (item_id)
LEFT JOIN item_profile USING (item_id)
"""


def small_log(requests: int = 100) -> RecordedLog:
    """A day of a small shop."""
    return simulate(SimulatorConfig(days=1, users=40, items=30, requests=requests, candidates=12, too_late=0.0))


def write_scenes(folder: Path, log: RecordedLog, *, feed: bool = True) -> tuple[set[str], set[str]]:
    """The project and the files of its replay in ``folder``; the ids of requests of the shop and of the feed.

    Without ``feed`` there is one scene, and requests of the other are left out; all events and labels are there.
    """
    shutil.copytree(ROOT / "sql", folder / "sql")
    toml = (ROOT / "dovetail.toml").read_text().replace("publish_every = 1000 ", "publish_every = 50 ")
    of_feed = pc.equal(log.requests.column("channel"), "web")
    shop, others = log.requests.filter(pc.invert(of_feed)), log.requests.filter(of_feed)
    (folder / ".dovetail").mkdir()
    pq.write_table(log.items, folder / ".dovetail" / "item.parquet")
    pq.write_table(log.events, folder / "behaviour.parquet")
    pq.write_table(shop, folder / "requests.parquet")
    for kind, rows in log.labels.items():
        pq.write_table(rows, folder / f"{kind}.parquet")
    if feed:
        toml += FEED
        (folder / "sql" / "feed_request.sql").write_text(FEED_REQUEST)
        (folder / "sql" / "feed.sql").write_text(FEED_FEATURES)
        pq.write_table(_as_feed(others), folder / "requests.feed.parquet")
    (folder / "dovetail.toml").write_text(toml)
    ids = [set(rows.column("request_id").to_pylist()) for rows in (shop, others)]
    return ids[0], ids[1]


def _as_feed(requests: pa.Table) -> pa.Table:
    """Requests of the shop as the feed has them: their candidates have a rank, and no affinity."""
    candidates = requests.column("candidates").combine_chunks()
    flat = pc.list_flatten(candidates)
    members = [pc.struct_field(flat, "item_id"), pc.struct_field(flat, "position")]
    ranked = pa.ListArray.from_arrays(candidates.offsets, pa.StructArray.from_arrays(members, ["item_id", "rank"]))
    kept = requests.select(["request_id", "user_id", "request_time", "arrival_time"])
    return kept.append_column("candidates", ranked)
