"""Open Bandit Dataset (ZOZOTOWN), the small version: 40,000 impressions of two campaigns under two policies.

Saito et al., "Open Bandit Dataset and Pipeline" (arXiv:2008.07146). What is read and what has to be assumed is in
``docs/demo-logs.md``; the assumptions are the constants below.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from dovetail.demo.logs.recorded import (
    BEHAVIOUR_SCHEMA,
    ITEM_SCHEMA,
    LABEL_SCHEMA,
    MINUTE_US,
    REQUEST_SCHEMA,
    SECOND_US,
    RecordedLog,
    arrival_sorted,
    make_table,
    nest_candidates,
)
from dovetail.platform.errors import ConfigError, WireError

__all__ = ["CLICK_DELAY_US", "EXPOSURE_DELAY_US", "ITEM_OFFSETS", "POLICIES", "is_obd", "load_obd"]

_Ints = npt.NDArray[np.int64]

#: Folders: the policy that chose the items. It becomes the request's channel.
POLICIES = ("bts", "random")
#: Folders below: the campaign, with what is added to its item ids so that the campaigns' items stay apart.
ITEM_OFFSETS = {"men": 0, "women": 1000}
#: The source gives an impression one time, taken as the request's; the exposure follows this much later.
EXPOSURE_DELAY_US = 1_000
#: The source gives a click no time at all.
CLICK_DELAY_US = 10 * SECOND_US
_WINDOW_US = 5 * MINUTE_US
_SLICE_US = 30 * MINUTE_US
_DAY_US = 86_400 * SECOND_US

_USER_FEATURES = [f"user_feature_{i}" for i in range(4)]
_AFFINITY = "user-item_affinity_"
_LAYOUT = [
    Path(policy, campaign, name)
    for policy in POLICIES
    for campaign in ITEM_OFFSETS
    for name in (f"{campaign}.csv", "item_context.csv")
]


@dataclass(frozen=True)
class _Part:
    """One file: impressions in order of time, grouped into pages (one request each)."""

    requests: pa.Table
    exposures: pa.Table
    clicks: pa.Table
    events: pa.Table


def is_obd(folder: Path) -> bool:
    """Whether ``folder`` looks like the data set, complete or not."""
    return any((folder / file).exists() for file in _LAYOUT)


def load_obd(folder: Path, *, candidates: int | None = 10, seed: int = 7) -> RecordedLog:
    """The four files as one log, merged in time.

    Every request lists the items it showed and a sample, drawn with ``seed``, of the campaign's other items, together
    ``candidates`` of them (``None``: all, 34 or 46, which makes 1.6 million snapshot rows instead of 400,000). The
    samples to train on do not depend on it, because only what was shown has a label.

    Raises:
        ConfigError: files are missing, or ``candidates`` is less than the longest page.
        WireError: a file does not have the columns it should.
    """
    missing = [str(file) for file in _LAYOUT if not (folder / file).is_file()]
    if missing:
        raise ConfigError(f"{folder}: the Open Bandit data lacks {', '.join(missing)}; copy the whole obd folder")
    if candidates is not None and candidates < 3:
        raise ConfigError(f"candidates is {candidates}; a page shows up to 3 items, so use 3 or more")
    rng = np.random.default_rng(seed)
    parts = [_load_part(folder, policy, campaign, candidates, rng) for policy in POLICIES for campaign in ITEM_OFFSETS]
    clicks = arrival_sorted(pa.concat_tables([part.clicks for part in parts]))
    start = min(part.requests["request_time"].cast(pa.int64())[0].as_py() for part in parts)
    return RecordedLog(
        name="open-bandit",
        events=arrival_sorted(pa.concat_tables([part.events for part in parts])),
        requests=arrival_sorted(pa.concat_tables([part.requests for part in parts])),
        labels={
            "exposure": arrival_sorted(pa.concat_tables([part.exposures for part in parts])),
            "click": clicks,
            "conversion": clicks.slice(0, 0),
        },
        items=pa.concat_tables(
            [_load_items(folder, campaign, start // _DAY_US * _DAY_US) for campaign in ITEM_OFFSETS]
        ),
        label_window_us=_WINDOW_US,
        slice_us=_SLICE_US,
        notes=(
            "real impressions and clicks, about 5 clicks in 1,000; a click's time is assumed "
            f"({CLICK_DELAY_US // SECOND_US} s after the request), a user is a tuple of four anonymous features, "
            "nothing is late because the source has no arrival times"
        ),
    ).check()


def _load_part(folder: Path, policy: str, campaign: str, candidates: int | None, rng: np.random.Generator) -> _Part:
    file = folder / policy / campaign / f"{campaign}.csv"
    impressions = _read_csv(file, ["timestamp", "item_id", "position", "click", *_USER_FEATURES])
    names = sorted(
        (n for n in impressions.column_names if n.startswith(_AFFINITY)), key=lambda n: int(n[len(_AFFINITY) :])
    )
    time_us = impressions["timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    item = impressions["item_id"].to_numpy()
    _check_items(file, item, len(names))
    order = np.argsort(time_us, kind="stable")
    impressions, time_us, item = impressions.take(pa.array(order)), time_us[order], item[order]
    affinity = np.column_stack([impressions[name].to_numpy() for name in names]).astype(np.float64)
    position = impressions["position"].to_numpy()
    user = _user_ids(impressions)
    page, first = _pages(time_us, user)

    request_id = pc.binary_join_element_wise(
        f"{policy}-{campaign}-", pc.utf8_lpad(pa.array(first).cast(pa.string()), width=5, padding="0"), ""
    )
    shown_id = pa.array(item + ITEM_OFFSETS[campaign])
    clicked = impressions["click"].to_numpy() == 1
    exposures = _labels(request_id.take(pa.array(page)), shown_id, time_us + EXPOSURE_DELAY_US)
    clicks = _labels(request_id.take(pa.array(page)), shown_id, time_us + CLICK_DELAY_US).filter(pa.array(clicked))
    wanted = len(names) if candidates is None else min(candidates, len(names))
    requests = make_table(
        REQUEST_SCHEMA,
        request_id=request_id,
        user_id=user.take(pa.array(first)),
        request_time=time_us[first],
        segment=_segments(impressions, campaign).take(pa.array(first)),
        channel=pa.array([policy] * len(first)),
        candidates=_candidates(page, first, item, position, affinity, wanted, ITEM_OFFSETS[campaign], rng),
        arrival_time=time_us[first],
    )
    return _Part(
        requests,
        exposures,
        clicks,
        pa.concat_tables(
            [
                _events(user, shown_id, time_us + EXPOSURE_DELAY_US, "impression"),
                _events(user, shown_id, time_us + CLICK_DELAY_US, "click").filter(pa.array(clicked)),
            ]
        ),
    )


def _read_csv(file: Path, needed: list[str]) -> pa.Table:
    types = {"timestamp": pa.timestamp("us", tz="UTC"), "item_id": pa.int64()}
    try:
        table = pv.read_csv(file, convert_options=pv.ConvertOptions(column_types=types))
    except pa.ArrowInvalid as error:
        raise WireError(f"{file}: not readable as the Open Bandit data: {error}; get the file again") from error
    absent = [name for name in needed if name not in table.column_names]
    if absent:
        raise WireError(f"{file}: columns {absent} are missing; this is not the Open Bandit data's file")
    return table


def _check_items(file: Path, item: _Ints, known: int) -> None:
    outside = np.flatnonzero((item < 0) | (item >= known))
    if len(outside):
        raise WireError(
            f"{file}, row {outside[0]}: item_id {item[outside[0]]}, but the file has affinities of {known} items; "
            "get the file again"
        )


def _user_ids(impressions: pa.Table) -> pa.Array:
    """A user is a distinct tuple of the four hashed features: 64 bits of BLAKE2b of the four, joined by ``|``."""
    joined = pc.binary_join_element_wise(*(impressions[name] for name in _USER_FEATURES), "|").combine_chunks()
    encoded = joined.dictionary_encode()
    digests = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in encoded.dictionary.to_pylist()]
    return pa.array(digests).take(encoded.indices)


def _segments(impressions: pa.Table, campaign: str) -> pa.Array:
    """Campaign and the two coarsest user features (3 and 5 values), cut to eight characters each."""
    coarse = [pc.utf8_slice_codeunits(impressions[name], 0, 8) for name in _USER_FEATURES[:2]]
    return pc.binary_join_element_wise(campaign, *coarse, "|").combine_chunks()


def _pages(time_us: _Ints, user: pa.Array) -> tuple[_Ints, _Ints]:
    """The page of each impression, and each page's first impression.

    Impressions of one user tuple at the same microsecond are one page: there are 17 such pairs, always two different
    items at different positions. All others stand alone, since the source is a sample of impressions, not of pages.
    """
    who = user.dictionary_encode().indices.to_numpy()
    order = np.lexsort((np.arange(len(who)), who, time_us))
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (np.diff(time_us[order]) != 0) | (np.diff(who[order]) != 0)
    page = np.empty(len(order), dtype=np.int64)
    page[order] = np.cumsum(starts) - 1
    return page, order[starts]


def _candidates(
    page: _Ints,
    first: _Ints,
    item: _Ints,
    position: _Ints,
    affinity: npt.NDArray[np.float64],
    wanted: int,
    offset: int,
    rng: np.random.Generator,
) -> pa.ListArray:
    """The items shown and a sample of the rest, in order of item so that the order gives nothing away."""
    pages, items = len(first), affinity.shape[1]
    shown_at = np.zeros((pages, items), dtype=np.int32)
    shown_at[page, item] = position
    # Shown items get keys below every random one; the smallest keys are kept.
    keys = np.where(shown_at > 0, -1.0, rng.random((pages, items)))
    kept = np.sort(np.argpartition(keys, wanted - 1, axis=1)[:, :wanted], axis=1)
    positions = np.take_along_axis(shown_at, kept, axis=1).ravel()
    return nest_candidates(
        np.arange(0, (pages + 1) * wanted, wanted, dtype=np.int32),
        pa.array(kept.ravel() + offset),
        pa.array(positions, mask=positions == 0),
        pa.array(np.take_along_axis(affinity[first], kept, axis=1).ravel()),
    )


def _labels(request_id: pa.Array, item_id: pa.Array, time_us: _Ints) -> pa.Table:
    return make_table(LABEL_SCHEMA, request_id=request_id, item_id=item_id, event_time=time_us, arrival_time=time_us)


def _events(user: pa.Array, item_id: pa.Array, time_us: _Ints, action: str) -> pa.Table:
    return make_table(
        BEHAVIOUR_SCHEMA,
        user_id=user,
        item_id=item_id,
        event_time=time_us,
        action=pa.array([action] * len(time_us)),
        price=pa.nulls(len(time_us)),
        arrival_time=time_us,
    )


def _load_items(folder: Path, campaign: str, known_us: int) -> pa.Table:
    """One version per item, known from the first day on.

    Both policies' folders describe the same items under different hashes; the first policy's are used.
    """
    context = _read_csv(
        folder / POLICIES[0] / campaign / "item_context.csv",
        ["item_id", "item_feature_0", "item_feature_1", "item_feature_2"],
    )
    return make_table(
        ITEM_SCHEMA,
        item_id=context["item_id"].to_numpy() + ITEM_OFFSETS[campaign],
        available_at=np.full(context.num_rows, known_us),
        category=context["item_feature_1"],
        brand=context["item_feature_2"],
        score=context["item_feature_0"],
    )
