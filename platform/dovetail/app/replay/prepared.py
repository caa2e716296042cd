"""Inputs of a replay, prepared: read once, checked, sorted by arrival, and kept until the replay is over.

The order in which rows are sent must be the same after a crash, whatever a query or a file gives by then. So an input
is written to the project's state first, and a plan beside it says what has been prepared, and from which offsets on
the topics may hold rows of it. The plan is written last; without it, what lies there is prepared anew.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.doors.door import Door
from dovetail.app.doors.files import format_of, is_query, read_file
from dovetail.platform.duck.over_files import sort_parquet
from dovetail.platform.errors import ConfigError
from dovetail.platform.owned import owned_folder
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.schema import TableSchema

__all__ = ["ARRIVAL_US", "Plan", "PreparedInput", "ReplayInput", "begin_plan", "finish_plan", "load_plan", "prepare"]

#: The column of a prepared file that says when its row arrived, int64 microseconds since 1970-01-01 UTC.
ARRIVAL_US = "_arrival_us"
_NUMBER = "_number"
_BAD_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReplayInput:
    """Rows for a door: a file or query, and the column that says when each row arrived."""

    door: Door
    source: str
    arrival: str


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """An input as it was prepared. ``stamp`` changes when its file may have; ``arrivals`` rows say when they came."""

    name: str
    source: str
    arrival: str
    stamp: str
    rows: int
    arrivals: int


@dataclass(slots=True)
class Plan:
    """A replay. ``identity`` marks its messages; ``begun`` is where its topics ended before it, by partition."""

    inputs: list[PreparedInput]
    slice_us: int
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: dict[str, dict[str, int]] = field(default_factory=dict)
    finished: bool = False


def load_plan(folder: Path, inputs: Sequence[ReplayInput], slice_us: int) -> Plan | None:
    """The plan in ``folder`` for just these inputs; None when there is none, or another one that is finished.

    Raises:
        ConfigError: another replay has begun there and is not finished, or a file has changed since this one has.
    """
    try:
        data: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    plan = Plan(**{**data, "inputs": [PreparedInput(**each) for each in data["inputs"]]})
    mine = [(each.door.name, each.source, each.arrival, _stamp(each.source)) for each in inputs]
    if [(each.name, each.source, each.arrival, each.stamp) for each in plan.inputs] == mine and (
        plan.finished or plan.slice_us == slice_us
    ):
        return plan
    if plan.finished:
        return None
    known = ", ".join(f"{each.name}={each.source}" for each in plan.inputs)
    raise ConfigError(
        f"{folder}: a replay of {known} has begun there and is not finished, and this is another one, or a file or "
        "--slice has changed since: give the command as it was; or, to give that replay up, remove the folder"
    )


def prepare(folder: Path, inputs: Sequence[ReplayInput], slice_us: int, *, on_rows: Callable[[str, int], None]) -> Plan:
    """Read, check and sort the inputs into ``folder``; what was there is removed. The plan is not yet written.

    Raises:
        ConfigError: a source cannot be read, or has rows that do not fit; nothing has been sent.
    """
    shutil.rmtree(folder, ignore_errors=True)
    owned_folder(folder)
    return Plan([_prepare(folder, each, on_rows) for each in inputs], slice_us)


def begin_plan(folder: Path, plan: Plan, begun: Mapping[str, Mapping[int, int]]) -> None:
    """Write the plan down, before the first row is sent; the topics end at ``begun``."""
    plan.begun = {topic: {str(number): end for number, end in ends.items()} for topic, ends in begun.items()}
    _write(folder, plan)


def finish_plan(folder: Path, plan: Plan) -> None:
    """Note that everything has been sent and handled, and remove what was prepared."""
    plan.finished = True
    _write(folder, plan)
    for each in plan.inputs:
        (folder / f"{each.name}.parquet").unlink(missing_ok=True)


def _write(folder: Path, plan: Plan) -> None:
    draft = folder / "plan.partial"
    draft.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
    draft.rename(folder / "plan.json")


def _stamp(source: str) -> str:
    if is_query(source):
        return ""
    try:
        found = Path(source).stat()
    except FileNotFoundError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def _prepare(folder: Path, given: ReplayInput, on_rows: Callable[[str, int], None]) -> PreparedInput:
    door, name = given.door, given.door.name
    declared = door.intake.schema
    if given.arrival in declared.arrow.names:
        raise ConfigError(
            f"--arrival {given.arrival}: it is a declared column of {name}; arrival is no part of the row: choose the "
            "name of a column that is not declared"
        )
    both = declared.arrow.append(pa.field(given.arrival, pa.timestamp("us")))
    schema = TableSchema(declared.name, declared.file, declared.line, both)
    option = f"{name}={given.source}"
    draft, number, arrivals = folder / f"{name}.unsorted", 0, 0
    last: int | None = None
    in_order = True
    bad: list[tuple[int, str]] = []
    stored = pa.schema([*declared.arrow, pa.field(ARRIVAL_US, pa.int64()), pa.field(_NUMBER, pa.int64())])
    stamp = _stamp(given.source)
    with pq.ParquetWriter(draft, stored, compression="zstd") as writer:
        for part in read_file(given.source, format_of(given.source, option), schema, option):
            bad += part.bad
            rows = part.table.drop_columns([given.arrival])
            said = part.table.column(given.arrival)
            times = time_us(rows, door.time_column)
            known = np.asarray(said.is_valid().to_numpy(), dtype=np.bool_)
            came = np.where(known, said.cast(pa.int64()).fill_null(0).to_numpy(), times)
            arrivals += int(known.sum())
            if len(came):
                in_order &= bool((came[1:] >= came[:-1]).all()) and (last is None or bool(came[0] >= last))
                last = int(came[-1])
            numbers = np.arange(number, number + rows.num_rows, dtype=np.int64)
            writer.write_table(pa.table([*rows.columns, pa.array(came), pa.array(numbers)], schema=stored))
            number += rows.num_rows
            on_rows(name, number)
    if bad:
        shown = "\n".join(f"  row {at}: {reason}" for at, reason in bad[:_BAD_SHOWN])
        raise ConfigError(f"{option}: {len(bad)} rows do not fit {declared.file}; nothing has been sent\n{shown}")
    final = folder / f"{name}.parquet"
    if in_order:
        draft.rename(final)
    else:
        sort_parquet(draft, final, (ARRIVAL_US, _NUMBER), scratch=folder / "spill")
        draft.unlink()
    return PreparedInput(name, given.source, given.arrival, stamp, number, arrivals)
