"""Outcomes of the label rows that met their snapshot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dovetail.joiners.matching import Early
from dovetail.joiners.policies import NEVER, Candidates, Decision, Policy
from dovetail.joiners.policies.policy import DOWN_SAMPLED, UNEXPOSED, UNEXPOSED_SAMPLED, Bools
from dovetail.platform.rows import wire

__all__ = ["LABEL_OUTCOMES", "NO_OUTCOMES", "label_outcomes"]

#: What a label row can end as; before it has met its snapshot it is ``pending``.
LABEL_OUTCOMES = ("sampled", "unexposed", "down_sampled", "late", "corrected", "early", "retracted")
_SAMPLED, _UNEXPOSED, _DOWN_SAMPLED, _LATE, _CORRECTED, _EARLY, _RETRACTED = range(len(LABEL_OUTCOMES))
_UNDECIDED = -1
_SCHEMA = pa.schema([(name, pa.string()) for name in ("request_id", "item_id", "kind", "outcome")])
#: Of no label.
NO_OUTCOMES = _SCHEMA.empty_table()


def label_outcomes(
    rows: pa.Table,
    candidates: Candidates,
    early: Early,
    taken_back: Mapping[str, Bools],
    decision: Decision,
    policy: Policy,
    lane: int,
) -> pa.Table:
    """Outcomes of one lane, as the label store's ``mark`` takes them.

    ``candidates`` have the first label of each key. ``taken_back``, by kind: those that a later one took back in time,
    as lane 0 says of them. ``early``, which ``candidates`` do not have, are told in lane 0, as late where they took
    effect after it. In time: what became of the snapshot row. Later: ``late``, unless the row goes on to a lane that
    will say. Lanes from 1 on speak of the positive kind alone, and of those that no earlier lane has met in time.
    """
    parts = []
    for kind in candidates.effective_us if lane == 0 else [policy.positive]:
        times = candidates.effective_us.get(kind)
        if times is None:
            continue
        what = _of_kind(times, candidates, decision, policy, lane, goes_on=kind == policy.positive)
        if lane == 0:
            in_time = early[kind] <= candidates.request_time_us + policy.horizons_us[0]
            what[early[kind] != NEVER] = _LATE
            what[in_time] = _EARLY
            if kind in taken_back:
                what[taken_back[kind]] = _RETRACTED
        said = what != _UNDECIDED
        met = rows.select(["request_id", "item_id"]).filter(pa.array(said))
        columns = [
            met.column("request_id").cast(pa.string()),
            met.column("item_id").cast(pa.string()),
            pa.repeat(kind, met.num_rows),
            pa.array(LABEL_OUTCOMES, pa.string()).take(pa.array(what[said])),
        ]
        parts.append(pa.table(columns, schema=_SCHEMA))
    return wire.concat(parts, _SCHEMA)


def _of_kind(
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
    candidates: Candidates,
    decision: Decision,
    policy: Policy,
    lane: int,
    *,
    goes_on: bool,
) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    if lane == 0:
        row = np.full(len(times), _SAMPLED, dtype=np.int8)
        row[(decision.outcome == UNEXPOSED) | (decision.outcome == UNEXPOSED_SAMPLED)] = _UNEXPOSED
        row[decision.outcome == DOWN_SAMPLED] = _DOWN_SAMPLED
    else:
        later = _CORRECTED if policy.later_outcome == "corrected" else _SAMPLED
        row = np.full(len(times), later, dtype=np.int8)
        row[times <= candidates.request_time_us + policy.horizons_us[lane - 1]] = _UNDECIDED
    in_time = times <= candidates.request_time_us + policy.horizons_us[lane]
    what = np.where(in_time, row, _LATE).astype(np.int8)
    what[times == NEVER] = _UNDECIDED
    if goes_on:
        what[~in_time & decision.held] = _UNDECIDED
    return what
