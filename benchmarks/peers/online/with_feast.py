"""Feast's online features: values computed beforehand, written to its store and looked up."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType

PACKAGES = ("feast", "redis")
CANDIDATES = 200


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``sqlite`` or ``redis``: the store is filled here."""
    place = folder / f"feast-{way}"
    place.mkdir(exist_ok=True)
    online: dict[str, Any] = {"type": "sqlite", "path": str(place / "online.db")}
    if way == "redis":
        url = json.loads((folder / "servers.json").read_text(encoding="utf-8"))["redis"]
        # Dovetail's states are in database 0.
        online = {"type": "redis", "connection_string": url.partition("//")[2].partition("/")[0] + ",db=1"}
    store = FeatureStore(
        config=RepoConfig(
            project="peers",
            provider="local",
            registry=str(place / "registry.db"),
            online_store=online,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    names = [name for entity in ("user", "item") for name in _fill(store, folder, entity)]
    asked = feather.read_table(str(folder / "requests.arrow"), memory_map=False)
    keys = {name: asked.column(name).to_pylist() for name in ("user_id", "item_id")}
    requests = [
        {name: values[at : at + CANDIDATES] for name, values in keys.items()}
        for at in range(0, asked.num_rows, CANDIDATES)
    ]

    def answered() -> pa.Table:
        parts = [store.get_online_features(features=names, entity_rows=request).to_arrow() for request in requests]
        # A column that is missing in all rows of a request has no type.
        return pa.concat_tables(parts, promote_options="permissive")

    return answered


def _fill(store: FeatureStore, folder: Path, entity: str) -> list[str]:
    """Write one entity's values; the references of its features."""
    path, key = folder / f"{entity}.parquet", f"{entity}_id"
    values = pq.read_table(path)
    fields = [
        Field(name=field.name, dtype=Int64 if pa.types.is_integer(field.type) else Float64)
        for field in values.schema
        if field.name != key
    ]
    kind = ValueType.STRING if entity == "user" else ValueType.INT64
    of = Entity(name=entity, join_keys=[key], value_type=kind)
    source = FileSource(path=str(path), timestamp_field="event_timestamp")
    view = FeatureView(name=f"of_{entity}", entities=[of], ttl=dt.timedelta(0), schema=fields, source=source)
    store.apply([of, view])
    frame = values.to_pandas()
    frame["event_timestamp"] = pd.Timestamp.now(tz="UTC")
    store.write_to_online_store(f"of_{entity}", df=frame)
    return [f"of_{entity}:{field.name}" for field in fields]
