"""JD.com purchase-intent data (JData), the subset in OpenMLDB's demo: 89,187 actions and 13,916 requests.

Neither impressions nor outcomes of requests are in it; what stands in for them is said in ``docs/demo-logs.md`` and in
the constants below.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.demo.logs.recorded import (
    BEHAVIOUR_SCHEMA,
    HOUR_US,
    ITEM_SCHEMA,
    LABEL_SCHEMA,
    REQUEST_SCHEMA,
    RecordedLog,
    arrival_sorted,
    make_table,
    nest_candidates,
)
from dovetail.platform.errors import ConfigError, WireError

__all__ = ["ACTIONS", "LABEL_WINDOW_US", "POSITIVE_ACTIONS", "is_jd", "load_jd"]

_Ints = npt.NDArray[np.int64]

#: JData's action types. The names are the competition's; the repository the files come from does not define them.
ACTIONS = {"1": "browse", "2": "cart", "3": "uncart", "4": "order", "5": "follow", "6": "click"}
#: What counts as the positive: the user goes beyond looking, on the requested item, after the request.
POSITIVE_ACTIONS = ("cart", "follow", "order")
LABEL_WINDOW_US = HOUR_US
_SLICE_US = 6 * HOUR_US
_DAY_US = 24 * HOUR_US

_COLUMNS = {
    "bo_action": ["ingestionTime", "pair_id", "type", "cate", "br"],
    "bo_user": ["user_id", "age", "sex", "user_lv_cd"],
    "bo_product": ["sku_id", "cate", "br"],
    "bo_comment": ["ingestionTime", "sku_id", "comment_num", "bad_comment_rate"],
    "flattenRequest_clean": ["reqId", "eventTime", "user_id", "sku_id"],
}


def is_jd(folder: Path) -> bool:
    """Whether ``folder`` looks like the data set, complete or not."""
    return any((folder / f"{name}.parquet").exists() for name in _COLUMNS)


def load_jd(folder: Path) -> RecordedLog:
    """The data set as one log; every message arrives when it happened, because the source does not say when it did.

    Raises:
        ConfigError: files are missing.
        WireError: a file cannot be read, does not have the columns it should, or holds an unknown action type.
    """
    missing = [f"{name}.parquet" for name in _COLUMNS if not (folder / f"{name}.parquet").is_file()]
    if missing:
        raise ConfigError(f"{folder}: the JD data lacks {', '.join(missing)}; copy the whole folder")
    tables = {name: _read(folder / f"{name}.parquet", columns) for name, columns in _COLUMNS.items()}
    events = _events(tables["bo_action"])
    requests = _requests(tables["flattenRequest_clean"], tables["bo_user"])
    skus = requests["candidates"].combine_chunks().flatten().field("item_id")
    positive = events.filter(pc.is_in(events["action"], pa.array(POSITIVE_ACTIONS)))
    return RecordedLog(
        name="jd",
        events=events,
        requests=requests,
        labels={
            "exposure": _exposures(requests, skus, last_action_us=_us(events["event_time"])[-1]),
            "click": _attribute(positive, requests, skus),
            "conversion": _attribute(positive.filter(pc.equal(positive["action"], "order")), requests, skus),
        },
        items=_items(tables["bo_action"], tables["bo_product"], tables["bo_comment"]),
        label_window_us=LABEL_WINDOW_US,
        slice_us=_SLICE_US,
        notes=(
            "real actions, but no impressions: a request is one user on one item, taken as its own exposure; the "
            "positive is a cart, follow or order of that item by that user within the hour after it; requests whose "
            "hour goes beyond the last recorded action get no exposure, because their outcome is unknown; nothing is "
            "late because the source has no arrival times"
        ),
    ).check()


def _read(file: Path, columns: list[str]) -> pa.Table:
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise WireError(f"{file}: not readable as Parquet: {error}; get the file again") from error
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise WireError(f"{file}: columns {absent} are missing; this is not the JD data's file")
    return table.select(columns).combine_chunks()


def _us(times: pa.ChunkedArray) -> _Ints:
    result: _Ints = times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return result


def _events(actions: pa.Table) -> pa.Table:
    """Actions in order of time; the file has them in none, and ties keep the file's order."""
    types = pa.array(list(ACTIONS))
    code = pc.index_in(actions["type"], types)
    if code.null_count:
        unknown = sorted(set(actions["type"].filter(code.is_null()).to_pylist()), key=str)
        raise WireError(f"bo_action.parquet: action types {unknown} are unknown; known are {ACTIONS}")
    user, sku = _split_pairs(actions)
    return arrival_sorted(
        make_table(
            BEHAVIOUR_SCHEMA,
            user_id=user,
            item_id=sku,
            event_time=actions["ingestionTime"],
            action=pa.array(list(ACTIONS.values())).take(code),
            price=pa.nulls(actions.num_rows),
            arrival_time=actions["ingestionTime"],
        )
    )


def _split_pairs(actions: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """``USER_SKU`` as user (string) and sku (int64)."""
    parts = pc.split_pattern(actions["pair_id"], "_")
    return pc.list_element(parts, 0), pc.list_element(parts, 1).cast(pa.int64())


def _requests(requests: pa.Table, users: pa.Table) -> pa.Table:
    """Requests in order of time. ``eventTime`` is UTC (the file's ``time1`` is the same instant in Beijing).

    There is one candidate, because the data names no other; with one there is no position, and nobody's estimate.
    """
    count = requests.num_rows
    return arrival_sorted(
        make_table(
            REQUEST_SCHEMA,
            request_id=requests["reqId"],
            user_id=requests["user_id"],
            request_time=requests["eventTime"],
            segment=_segments(users).take(pc.index_in(requests["user_id"], users["user_id"])),
            channel=pa.nulls(count),
            candidates=nest_candidates(
                np.arange(count + 1, dtype=np.int32),
                requests["sku_id"].cast(pa.int64()).combine_chunks(),
                pa.nulls(count),
                pa.nulls(count),
            ),
            arrival_time=requests["eventTime"],
        )
    )


def _segments(users: pa.Table) -> pa.ChunkedArray:
    """Age band, sex and level of every user; the age loses its unit: ``26-35``, or ``-1`` where it is unknown."""
    age = pc.replace_substring_regex(users["age"], "岁.*", "")
    return pc.binary_join_element_wise(age, users["sex"], users["user_lv_cd"], "|")


def _exposures(requests: pa.Table, skus: pa.Array, *, last_action_us: int) -> pa.Table:
    time_us = _us(requests["request_time"])
    observed = pa.array(time_us + LABEL_WINDOW_US <= last_action_us)
    exposures = make_table(
        LABEL_SCHEMA,
        request_id=requests["request_id"],
        item_id=skus,
        event_time=requests["request_time"],
        arrival_time=requests["request_time"],
    )
    return exposures.filter(observed)


def _attribute(actions: pa.Table, requests: pa.Table, skus: pa.Array) -> pa.Table:
    """Each action as a label of the last request of its user and item before it; without one it is nobody's label.

    Strictly before: what happens in the very second of the request may already be in its features. Actions past the
    label window are kept, for the join to count.
    """
    users = pc.unique(pa.chunked_array([*requests["user_id"].chunks, *actions["user_id"].chunks]))
    asked = _pair_keys(users, requests["user_id"], skus)
    acted = _pair_keys(users, actions["user_id"], actions["item_id"])
    # Requests ordered by pair, then time, as one ascending key; an action looks up the place just before its own.
    asked_us, acted_us = _us(requests["request_time"]), _us(actions["event_time"])
    pairs, times = np.unique(asked), np.unique(asked_us)
    order = np.lexsort((asked_us, asked))
    width = len(times) + 1
    place = np.searchsorted(pairs, asked[order]) * width + np.searchsorted(times, asked_us[order])
    known = np.isin(acted, pairs)
    wanted = np.searchsorted(pairs, acted) * width + np.searchsorted(times, acted_us)
    before = np.searchsorted(place, wanted) - 1
    known &= (before >= 0) & (asked[order][before] == acted)
    request = requests["request_id"].take(pa.array(order[before[known]]))
    attributed = actions.filter(pa.array(known))
    return make_table(
        LABEL_SCHEMA,
        request_id=request,
        item_id=attributed["item_id"],
        event_time=attributed["event_time"],
        arrival_time=attributed["arrival_time"],
    )


def _pair_keys(users: pa.Array, user: pa.ChunkedArray, sku: pa.Array | pa.ChunkedArray) -> _Ints:
    """User and sku as one int64; sku ids have at most six digits."""
    keys: _Ints = pc.index_in(user, users).to_numpy().astype(np.int64) * 10**9 + sku.to_numpy()
    return keys


def _items(actions: pa.Table, products: pa.Table, comments: pa.Table) -> pa.Table:
    """Category and brand from the day the log starts, and a row with the score of each weekly comment summary.

    The score is the share of comments that are not bad, NULL without comments. Category and brand never differ
    between rows of one item, so they are taken from anywhere: actions first, products for items without actions.
    """
    _, acted = _split_pairs(actions)
    sku = pa.chunked_array([*acted.chunks, *products["sku_id"].cast(pa.int64()).chunks])
    category = pa.chunked_array([*actions["cate"].chunks, *products["cate"].chunks])
    brand = pa.chunked_array([*actions["br"].chunks, *products["br"].chunks])
    _, first = np.unique(sku.to_numpy(), return_index=True)
    at = pa.array(first)
    known = sku.take(at).combine_chunks()
    category, brand = category.take(at), brand.take(at)
    start = int(_us(actions["ingestionTime"]).min()) // _DAY_US * _DAY_US
    base = make_table(
        ITEM_SCHEMA,
        item_id=known,
        available_at=np.full(len(known), start),
        category=category,
        brand=brand,
        score=pa.nulls(len(known)),
    )
    commented = comments["sku_id"].cast(pa.int64())
    which = pc.index_in(commented, known)
    good = pc.subtract(1.0, comments["bad_comment_rate"].cast(pa.float64()))
    weekly = make_table(
        ITEM_SCHEMA,
        item_id=commented,
        available_at=comments["ingestionTime"],
        category=category.take(which),
        brand=brand.take(which),
        score=pc.if_else(pc.greater(comments["comment_num"], 0), good, None),
    )
    return pa.concat_tables([base, weekly])
