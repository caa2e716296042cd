"""The first part of a recorded log, as files of the same form.

`make test` replays the first quarter of each, `make nightly` all of them (``DOVETAIL_WHOLE_LOGS=1``).
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["replayed"]

_SHARE = 0.25
#: Of the JD data, the files that a part is taken of, and when their rows happened; the others hold items and users.
_TIMES = {"bo_action.parquet": "ingestionTime", "flattenRequest_clean.parquet": "eventTime"}


def replayed(log: Path, into: Path) -> Path:
    """The folder to replay: ``log`` itself, or what happened in the first quarter of its time, written to ``into``."""
    if os.environ.get("DOVETAIL_WHOLE_LOGS") == "1":
        return log
    for source in sorted(path for path in log.rglob("*") if path.suffix in {".csv", ".parquet"}):
        target = into / source.relative_to(log)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.name in _TIMES:
            _shorten(source, target, _TIMES[source.name], _end(log / "bo_action.parquet"))
        elif source.name in {"men.csv", "women.csv"}:
            lines = source.read_text(encoding="utf-8").splitlines(keepends=True)  # a header, and rows in order of time
            target.write_text("".join(lines[: 1 + int(_SHARE * (len(lines) - 1))]), encoding="utf-8")
        else:
            target.write_bytes(source.read_bytes())
    return into


def _end(actions: Path) -> int:
    """When the part ends, in µs."""
    times = pq.read_table(actions, columns=["ingestionTime"]).column(0).cast("int64")
    first, last = (value.as_py() for value in (pc.min(times), pc.max(times)))
    return int(first + _SHARE * (last - first))


def _shorten(source: Path, target: Path, column: str, end_us: int) -> None:
    rows = pq.read_table(source)
    pq.write_table(rows.filter(pc.less(rows.column(column).cast("int64"), end_us)), target)
