"""``dovetail join`` that can be told when to die: SIGKILL at the n-th moment something changes in stores.

As ``mortal_backfill.py``, for lines ``[ENGINE, PROJECT, DIE_AT]``. ENGINE is ``spark``, a cluster that is this process,
or ``local``. What has been released ends before offset 3 of each partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dovetail.app.reports import join_on_cluster as on_cluster
from dovetail.app.reports import rejoin
from dovetail.cli.stored import join
from dovetail.platform.stores.registry.results.joined_files import JoinLog
from dovetail.spark.cluster import Cluster
from tests.features.stored.mortal_backfill import serve
from tests.spark.in_process import InProcess

#: Rows into a draft, a draft under its name, a file removed, the registry's transactions: before and after each.
MOMENTS: list[tuple[type, str]] = [
    (pq.ParquetWriter, "write_table"),
    (LocalFileSystem, "mv"),
    (LocalFileSystem, "rm"),
    (JoinLog, "replace"),
]


def one(engine: str, project: str) -> int:
    @contextmanager
    def opened(*_: object) -> Iterator[Cluster | None]:
        yield InProcess() if engine == "spark" else None

    vars(join)["cluster_of"] = opened
    for module in (rejoin, on_cluster):
        vars(module)["released_positions"] = lambda *_: {(0, partition): 3 << 20 for partition in range(2)}
    return join.run(Path(project), f"{project}/out", "", compare=False, as_json=True)


if __name__ == "__main__":
    serve(one, MOMENTS)
