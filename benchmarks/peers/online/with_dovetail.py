"""Dovetail's online features: states from the store, evaluated for the time of the request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from dovetail.platform.stores.online_stores import open_online_store

from .data import CANDIDATES, as_numbers, online_of, project_of, url_of

PACKAGES = ("numba", "pyarrow", "redis")


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``sqlite`` or ``redis``."""
    asked = feather.read_table(str(folder / "requests.arrow"), memory_map=False)
    requests = [asked.slice(at, CANDIDATES) for at in range(0, asked.num_rows, CANDIDATES)]
    online = online_of(project_of(folder), open_online_store(url_of(folder, way), "peers"), folder)
    return lambda: as_numbers(pa.concat_tables([online.serve(request).features for request in requests]))
