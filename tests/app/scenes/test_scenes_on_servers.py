"""Two scenes over Kafka, with their shared states in Redis."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.app.replay.mortal_replay import main
from tests.app.scenes.both_judged import judged
from tests.app.scenes.two_scenes import small_log, write_scenes


@pytest.mark.services
def test_two_scenes_are_replayed_through_kafka(tmp_path: Path, kafka_url: str, redis_url: str) -> None:
    shop, feed = write_scenes(tmp_path, small_log(50))
    mark, file = uuid.uuid4().hex[:8], tmp_path / "dovetail.toml"
    toml = file.read_text().replace('name = "demo"', f'name = "scenes_{mark}"')
    for section in ("streams.behaviour", *(f"labels.streams.{kind}" for kind in ("exposure", "click", "conversion"))):
        toml = toml.replace(f"[{section}]", f'[{section}]\ntopic = "{section.rpartition(".")[2]}-{mark}"')
    for name in ("requests", "snapshots", "samples"):
        toml = toml.replace(f' = "{name}"', f' = "{name}-{mark}"')
    toml = toml.replace(
        "[scenes.feed.request]", f'[scenes.feed.request]\ntopic = "fr-{mark}"\nsnapshots_topic = "fs-{mark}"'
    )
    toml = toml.replace("[scenes.feed.labels]", f'[scenes.feed.labels]\nsamples_topic = "feed-samples-{mark}"')
    toml = toml.replace('"feed-bought"', f'"feed-bought-{mark}"')
    storage = f'[storage]\nbroker = "{kafka_url}"\nonline_store = "{redis_url}"'
    file.write_text(toml.replace("[storage]", storage) + '\n[broker.retention]\ninputs = "forever"\n')
    main(tmp_path, 0, 60)
    samples = judged(tmp_path)
    assert {
        name: set(rows.column("request_id").to_pylist()) <= ids
        for (name, rows), ids in zip(samples.items(), (shop, feed, feed), strict=True)
    } == dict.fromkeys(samples, True)
