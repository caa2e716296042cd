"""How long labels take to count, and how long a sample would wait for them, from the archived logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.batch.counted import first_not_early, not_early
from dovetail.joiners.batch.join import clocked_log
from dovetail.platform.duck.hermetic import hermetic_connection
from dovetail.platform.duck.quoting import identifier

__all__ = ["known_until_us", "label_delays", "sample_waits"]

_Ints = npt.NDArray[np.int64]


def known_until_us(snapshots: pa.Table, labels: Mapping[str, pa.Table], allowed_lateness_us: int) -> int:
    """The time up to which labels have come, should none be later than ``allowed_lateness_us``; from all logs together.

    It is the newest time in any of them, less the lateness: microseconds since 1970-01-01 UTC.
    """
    columns = [snapshots.column("request_time"), *(log.column("event_time") for log in labels.values())]
    newest = [pc.max(column).cast(pa.int64()).as_py() for column in columns if len(column)]
    return max((time for time in newest if time is not None), default=0) - allowed_lateness_us


def label_delays(
    snapshots: pa.Table,
    labels: Mapping[str, pa.Table],
    kind: str,
    *,
    exposure: str | None,
    since: str | None = None,
    slices: Sequence[str] = (),
    allowed_lateness_us: int,
    early_us: int,
) -> pa.Table:
    """A row per snapshot row that may get a label of ``kind``, with how long that took.

    Columns: ``since`` timestamp, ``delay`` int64 µs from there until the first label of the kind takes effect (NULL
    without one), and ``slices`` as strings. With ``exposure``, only rows that have a label of that kind. Time runs from
    ``request_time``, or, with ``since``, from the event time of the row's first label of that kind, and only rows that
    have one are there. What takes effect before has the delay 0; a label that is too early for its request is none.
    ``rules``, by kind, say of which kinds every label is kept: there the first that is not early counts, as in
    :func:`~dovetail.joiners.batch.join.join_samples`; for others nothing counts where the first is early. A label that
    is taken back has come all the same.

    ``snapshots`` needs request_id, item_id, request_time and ``slices``; ``labels`` are the logs by kind, with own
    position columns.
    """
    kinds = dict.fromkeys(filter(None, (kind, exposure, since)))
    connection = hermetic_connection()
    try:
        rows = snapshots.select(["request_id", "item_id", "request_time", *slices])
        connection.register("candidates", rows.append_column("_at", pa.array(range(len(rows)), pa.int64())))
        for name in kinds:
            connection.register(f"log_{name}", labels[name])
        parts = [clocked_log(name, allowed_lateness_us) for name in kinds]
        first = ",\n".join([*parts, *(first_not_early(name, early_us) for name in kinds)])
        joins = "".join(
            f" {'LEFT JOIN' if name == kind != exposure else 'JOIN'} {not_early(name)} USING (_at)" for name in kinds
        )
        start = "request_time" if since is None else f"{since}_event_time"
        sliced = "".join(f", candidates.{identifier(name)}::VARCHAR AS {identifier(name)}" for name in slices)
        query = f"""
            WITH {first}
            SELECT {start} AS since,
                   CASE WHEN {kind}_effective IS NOT NULL
                        THEN greatest(0, epoch_us({kind}_effective) - epoch_us({start}))::BIGINT END AS delay{sliced}
            FROM candidates{joins}"""
        return connection.sql(query).to_arrow_table()
    finally:
        connection.close()


def sample_waits(
    request_times_us: _Ints,
    window_us: int,
    labels: Mapping[str, pa.Table],
    *,
    allowed_lateness_us: int,
    idle_timeout_us: int,
) -> _Ints:
    """For how long after its request a sample waits with a window, in event time: int64 µs, of requests it is known of.

    It is released when the clock of every label partition has passed the window: the partition's next event at least
    ``allowed_lateness_us`` later, or, where that is silent, when it is spoken for. Requests whose release is after the
    last label of all are left out.
    """
    due = np.sort(request_times_us) + window_us + allowed_lateness_us
    released, last = due.copy(), np.iinfo(np.int64).min
    for log in labels.values():
        partitions = log.column("_partition").to_numpy()
        times = log.column("event_time").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        for partition in np.unique(partitions):
            mine = np.sort(times[partitions == partition])
            last = max(last, int(mine[-1]))
            at = np.searchsorted(mine, due, side="left")
            following = np.where(at < len(mine), mine[np.minimum(at, len(mine) - 1)], np.iinfo(np.int64).max)
            silent = np.where(at > 0, mine[np.maximum(at - 1, 0)], mine[0]) + idle_timeout_us
            released = np.maximum(released, np.minimum(following, np.maximum(silent, due)))
    known = released <= last
    waits: _Ints = (released - np.sort(request_times_us))[known]
    return waits
