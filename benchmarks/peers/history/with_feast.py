"""Feast's historical features, with its offline store of files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Int64, String
from feast.value_type import ValueType

PACKAGES = ("feast", "pandas")


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``as_of``: the registry is filled here, and the requests become Feast's data frame of entities."""
    assert way == "as_of", f"there is no way {way} here"
    place = folder / "feast"
    place.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="peers",
            provider="local",
            registry=str(place / "registry.db"),
            online_store={"type": "sqlite", "path": str(place / "online.db")},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    newest = FeatureView(
        name="newest",
        entities=[user],
        ttl=dt.timedelta(0),
        schema=[Field(name="action", dtype=String), Field(name="cents", dtype=Int64)],
        source=FileSource(path=str(folder / "events" / "all.parquet"), timestamp_field="event_time"),
    )
    store.apply([user, newest])
    requests = pq.read_table(folder / "requests" / "all.parquet", columns=["request_id", "user_id", "request_time"])
    asked = requests.to_pandas().rename(columns={"request_time": "event_timestamp"})
    asked["event_timestamp"] = pd.to_datetime(asked["event_timestamp"], utc=True)

    def answered() -> pa.Table:
        job = store.get_historical_features(entity_df=asked, features=["newest:action", "newest:cents"])
        table = job.to_arrow()
        # Of an integer that may be missing pandas makes a floating number.
        values = {"action": table.column("action"), "cents": table.column("cents").cast(pa.int64())}
        return pa.table({"row": table.column("request_id").cast(pa.int64()), **values}).sort_by("row")

    return answered
