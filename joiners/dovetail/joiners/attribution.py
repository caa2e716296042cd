"""Labels that name a user and an item but no request: which request they belong to.

A label belongs to the *latest* request of its user that had its item among the candidates, was not later than the
label's event time and not earlier than that by more than the declared ``attribute_within``. Of requests at one time
the one with the last position is the latest. If there is none, the label is *unattributed*, and counted.

Which requests compete is decided by the logs alone, as it is for labels (see ``stores/labels.py``): the stream *knows*
of a request at its time, or at the clock of its partition when it comes later than that clock. A request competes for
a label when it was known no later than the label took effect. So the label agent reads on in its log only when the
clocks of all request partitions have passed what it has read, and then it knows every request that competes. Labels
wait in the log, and with them the label watermark: samples are released when both sides are there.

A request that was refused (see ``snapshot_agent.py``) competes like any other: what its user saw after it was not an
older request's doing. Its labels end as ``orphaned``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.watermark import SilentPartitions
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import joined_keys
from dovetail.platform.stores.registry.asked import ASKED, ITEM_SEPARATOR

__all__ = ["USER_COLUMN", "Attribution", "Requests", "asked_rows"]

#: The column of requests and of attributed labels that names the user.
USER_COLUMN = "user_id"
_PAIR = [USER_COLUMN, "item_id"]
_LATEST = ["request_time_us", "partition", "offset", "row"]
Int64 = npt.NDArray[np.int64]


class Requests(Protocol):
    """Who remembers requests."""

    def asked(self, users: Sequence[str], low_us: int, high_us: int) -> pa.Table:
        """The requests (ASKED) of these users with ``low_us <= request time <= high_us``."""
        ...


def asked_rows(requests: pa.Table, known_us: Int64, flatten: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """``requests`` (with own positions) as ASKED rows; ``known_us`` int64 [n]. Those of no user are left out.

    ``flatten`` gives one row per candidate, position columns kept.
    """
    known = requests.append_column("_known", pa.array(known_us, pa.int64()))
    flat = flatten(known.filter(pc.is_valid(known.column(USER_COLUMN))))
    flat = flat.filter(pc.is_valid(flat.column("item_id"))).combine_chunks()
    if flat.num_rows == 0:
        return ASKED.empty_table()
    offset, row = (flat.column(name).to_numpy() for name in OWN_COLUMNS[1:])
    starts = np.flatnonzero(np.concatenate(([True], (offset[1:] != offset[:-1]) | (row[1:] != row[:-1]))))
    bounds = pa.array(np.append(starts, flat.num_rows), pa.int32())
    items = pa.ListArray.from_arrays(bounds, _escaped(flat.column("item_id")))
    first = flat.take(pa.array(starts))
    columns = [
        first.column(USER_COLUMN).cast(pa.string()),
        first.column("request_time").cast(pa.timestamp("us")).cast(pa.int64()),
        *(first.column(name) for name in OWN_COLUMNS),
        first.column("_known"),
        first.column("request_id").cast(pa.string()),
        pc.binary_join(items, ITEM_SEPARATOR),
    ]
    return pa.table(columns, names=ASKED.names).cast(ASKED)


class Attribution:
    """Finds the requests of labels, and tells when they can be found.

    ``settled`` reads the smallest clock (µs) of the request partitions from the store. ``silent`` speaks for request
    partitions that are silent while the others, or the labels, go on: ``newest_ms`` reads the newest message timestamp
    of any label stored.
    """

    def __init__(
        self,
        requests: Requests,
        settled: Callable[[], int | None],
        silent: SilentPartitions,
        *,
        newest_ms: Callable[[], int | None],
        within_us: int,
    ) -> None:
        self._requests = requests
        self._settled = settled
        self._silent = silent
        self._newest_ms = newest_ms
        self._within_us = within_us

    async def look(self, effective_us: int, stamp_ms: int | None) -> list[Outgoing] | None:
        """Whether every request is known that competes for labels which took effect by ``effective_us``.

        Empty when it is; announcements that must be made for that, or None when that is to be waited for.
        ``stamp_ms``: the newest message timestamp of these labels.
        """
        settled = await compute(self._settled)
        if settled is not None and settled > effective_us:
            return []
        return await compute(self._announcements, effective_us + 1, stamp_ms) or None

    def _announcements(self, needed_us: int, stamp_ms: int | None) -> list[Outgoing]:
        stamps = [stamp for stamp in (stamp_ms, self._newest_ms()) if stamp is not None]
        return self._silent.announcements(needed_us, max(stamps, default=None))

    def request_ids(self, labels: pa.Table, event_us: Int64, effective_us: Int64) -> pa.Array:
        """The request of each label, string, NULL where there is none. ``labels`` has user_id and item_id."""
        if labels.num_rows == 0:
            return pa.array([], pa.string())
        users = pc.unique(labels.column(USER_COLUMN).cast(pa.string())).to_pylist()
        asked = self._requests.asked(users, int(event_us.min()) - self._within_us, int(event_us.max()))
        keyed = pa.table([labels.column(USER_COLUMN), _escaped(labels.column("item_id"))], names=_PAIR)
        given = pa.table(
            {
                "key": joined_keys(keyed, _PAIR),
                "label": pa.array(np.arange(labels.num_rows, dtype=np.int64)),
                "event_us": pa.array(event_us),
                "effective_us": pa.array(effective_us),
            }
        )
        pairs = given.join(_candidates(asked, keyed), "key", join_type="inner", use_threads=False)
        at, event, effective, request, known = (
            pairs.column(name).to_numpy()
            for name in ("label", "event_us", "effective_us", "request_time_us", "known_us")
        )
        competes = (request <= event) & (request >= event - self._within_us) & (known <= effective)
        # In ascending order, so that the latest is what stays.
        order = np.lexsort([pairs.column(name).to_numpy() for name in reversed(_LATEST)])
        order = order[competes[order]]
        latest = np.full(labels.num_rows, -1, dtype=np.int64)
        latest[at[order]] = order
        chosen = pa.array(latest, pa.int64(), mask=latest < 0)
        found = pairs.column("request_id").combine_chunks().take(chosen)
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _candidates(asked: pa.Table, labels: pa.Table) -> pa.Table:
    """One row per candidate of ``asked`` whose user and item are ``labels``'; ``key`` is both."""
    items = pc.split_pattern(asked.column("items"), ITEM_SEPARATOR).combine_chunks()
    parents, flat = pc.list_parent_indices(items), pc.list_flatten(items)
    # By item alone first: most candidates nobody has touched, and a key is dearer than an item.
    touched = pc.is_in(flat, pc.unique(labels.column("item_id")))
    parents, flat = parents.filter(touched), flat.filter(touched)
    key = joined_keys(pa.table([asked.column(USER_COLUMN).take(parents), flat], names=_PAIR), _PAIR)
    wanted = pc.is_in(key, joined_keys(labels, _PAIR))
    mine = asked.drop_columns(["items", USER_COLUMN]).take(parents.filter(wanted))
    return mine.append_column("key", key.filter(wanted))


def _escaped(items: pa.ChunkedArray) -> pa.Array:
    """Items as text, without the separator."""
    text = items.cast(pa.string())
    if pa.types.is_string(items.type):
        text = pc.replace_substring(pc.replace_substring(text, "\x1b", "\x1b0"), ITEM_SEPARATOR, "\x1b1")
    return pa.concat_arrays(text.chunks) if text.num_chunks else pa.array([], pa.string())
