"""``dovetail backfill`` that can be told when to die: SIGKILL at the n-th moment something becomes visible on disk.

Each line of its input is one run, JSON ``[PROJECT, WHAT, DIE_AT]``, in a process forked from this one, which has
imported all that is needed and has done nothing yet. WHAT is the folder of a backfill, or the number of a version of
batch view ``profile``, which is run alone. With DIE_AT 0 the run lives. It answers with a line of JSON: the
``signal`` that ended the run (0: none), its exit ``code``, and how many ``moments`` there were, null where it died.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dovetail.app.jobs import BackfillRequest, batch_versions
from dovetail.app.storage import open_stores
from dovetail.cli.stored.backfill import run
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.duck.scratch import Buckets
from dovetail.platform.stores.registry.store import Registry

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


def mortal(die_at: int, where: Sequence[tuple[type, str]]) -> Callable[[], int]:
    """Make every one of the moments ``where`` deadly at the right count; gives the count."""
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

    for owner, name in where:
        setattr(owner, name, deadly(getattr(owner, name)))
    return lambda: moments


def backfill(project: Path, out: str) -> int:
    asked = BackfillRequest("ranking", out, limits=Limits(rows_per_piece=30, threads=1))
    return run(project, asked, first=None, last=None, explain=False, as_json=False)


def batch_view(project: Path, version_us: int) -> int:
    """The version as a worker has it that is the first to need it."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    batch_versions(loaded, stores).table("profile", version_us)
    stores.close()
    return 0


def one(project: str, what: str | int) -> int:
    """One run."""
    return backfill(Path(project), what) if isinstance(what, str) else batch_view(Path(project), what)


def serve(run_one: Callable[..., int], where: Sequence[tuple[type, str]]) -> None:
    """Call ``run_one`` for each line, JSON ``[…, DIE_AT]``, in a process of its own; answer each with a line."""
    gc.freeze()  # what has been imported is nobody's garbage: to look for some in it copies its pages
    for line in sys.stdin:
        answers, answer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the command prints is no answer
            *asked, die_at = json.loads(line)
            count = mortal(die_at, where)
            code = run_one(*asked)
            os.write(answer, json.dumps({"moments": count(), "code": code}).encode())
            os._exit(0)
        os.close(answer)
        with os.fdopen(answers) as said:
            text = said.read()
        status = os.waitpid(child, 0)[1]
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"moments": None, "code": None, "signal": ended} | json.loads(text or "{}")), flush=True)


if __name__ == "__main__":
    serve(one, MOMENTS)
