"""``dovetail backfill`` that can be told when to die: SIGKILL at the n-th moment something becomes visible on disk.

Usage: mortal_backfill.py PROJECT OUT DIE_AT. With DIE_AT 0 it lives, and prints how many moments there were.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.scratch import Buckets
from dovetail.platform.cli.backfill import run
from dovetail.platform.jobs import BackfillRequest
from dovetail.platform.stores.registry import Registry

#: What is killed before and after: rows into a file, the file under its name, rows of the registry, pieces on disk.
MOMENTS: list[tuple[type, str]] = [
    (pq.ParquetWriter, "write_table"),
    (LocalFileSystem, "mv"),
    (Registry, "begin_backfill"),
    (Registry, "put_definitions"),
    (Registry, "add_version"),
    (Registry, "finish_backfill_day"),
    (Buckets, "close"),
]


def mortal(die_at: int) -> Callable[[], int]:
    """Make every one of MOMENTS deadly at the right count; gives the count."""
    moments = 0

    def moment() -> None:
        nonlocal moments
        moments += 1
        if moments == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(whole: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any, **options: Any) -> Any:
            moment()
            result = whole(*arguments, **options)
            moment()
            return result

        return around

    for owner, name in MOMENTS:
        setattr(owner, name, deadly(getattr(owner, name)))
    return lambda: moments


def main(project: str, out: str, die_at: int) -> None:
    count = mortal(die_at)
    asked = BackfillRequest("ranking", out, limits=Limits(rows_per_piece=30, threads=1))
    code = run(Path(project), asked, first=None, last=None, explain=False, as_json=True)
    print(json.dumps({"moments": count(), "code": code}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
