"""``seed + recent days``: of the samples of ``return_days``, each row once, as old as it could be at a given time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.config.durations import DAY_US
from dovetail.platform.rows.intake import time_us

__all__ = ["seed_and_recent"]


def seed_and_recent(samples: pa.Table, *, as_of_us: int, full_age: int, seed_days: int, recent_days: int) -> pa.Table:
    """The samples to train on at ``as_of_us`` (µs): mature rows for the seed, the last days at the age they have.

    A row is in the *seed* when it had its full age, in days, or its positive, and its request was no more than
    ``seed_days`` before the recent ones; *recent* rows are those of the last ``recent_days`` (24 hours each, ending at
    ``as_of_us``), at the largest age that had passed. Of each row the one sample that was newest by then is taken, in
    the order of ``samples``. Nothing that was not known at ``as_of_us`` is used, however the samples were stored.

    ``samples`` needs request_id, item_id, request_time, elapsed_days, label.
    """
    request_time = time_us(samples, "request_time")
    elapsed = samples.column("elapsed_days").to_numpy().astype(np.int64)
    recent_from = as_of_us - recent_days * DAY_US
    known = (request_time + elapsed * DAY_US <= as_of_us) & (request_time >= recent_from - seed_days * DAY_US)
    at = np.flatnonzero(known)
    keys = pa.table({name: samples.column(name).take(pa.array(at)) for name in ("request_id", "item_id")})
    keys = keys.append_column("elapsed", pa.array(elapsed[at])).append_column("at", pa.array(at))
    newest = keys.group_by(["request_id", "item_id"]).aggregate([("elapsed", "max")])
    chosen = keys.join(newest, keys=["request_id", "item_id"])
    chosen = chosen.filter(pc.equal(chosen.column("elapsed"), chosen.column("elapsed_max")))
    at = np.sort(chosen.column("at").to_numpy())
    label = samples.column("label").to_numpy()[at]
    mature = (elapsed[at] >= full_age) | (label == 1)
    return samples.take(pa.array(at[mature | (request_time[at] >= recent_from)]))
