"""The join done in batch: samples' keys, labels and weights from the logs, in one DuckDB query per policy.

It states the meaning of every policy in SQL and shares no code with the stream's join, which must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from dovetail.joiners.batch.counted import (
    counted,
    counted_kinds,
    first_counted,
    first_not_early,
    met_kinds,
    not_early,
)
from dovetail.joiners.values.kind_rules import KindRule
from dovetail.platform.config.durations import DAY_US
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.duck.hermetic import hermetic_connection

__all__ = [
    "CANDIDATE_COLUMNS",
    "CHANCE_MACROS",
    "clocked",
    "clocked_log",
    "early",
    "first_label",
    "join_samples",
    "joined_rows",
    "within",
]

#: What :func:`join_samples` needs of a snapshot row.
CANDIDATE_COLUMNS = ("request_id", "item_id", "request_time", "score")

#: The macro ``chance(request_id, item_id)``, the number in [0, 1) by which negatives are drawn, and those it calls: the
#: draw of ``policies``: FNV-1a of request, 0x1f, item; fmix64; the upper 53 bits. 128-bit integers, modulo 2^64.
CHANCE_MACROS = (
    "CREATE MACRO times(a, b) AS (a::UHUGEINT * b::UHUGEINT) % 18446744073709551616::UHUGEINT",
    "CREATE MACRO fold(h) AS xor(h, h // 8589934592::UHUGEINT)",
    """CREATE MACRO fnv1a(s) AS list_reduce(
        list_transform(range(octet_length(encode(s))), lambda i: ('0x' || substr(hex(s), 2 * i + 1, 2))::UHUGEINT),
        lambda h, b: times(xor(h, b), 1099511628211), 14695981039346656037::UHUGEINT)""",
    "CREATE MACRO fmix64(h) AS fold(times(fold(times(fold(h), 18397679294719823053)), 14181476777654086739))",
    """CREATE MACRO chance(request, item) AS
        (fmix64(fnv1a(request || chr(31) || item::VARCHAR)) // 2048)::DOUBLE / 9007199254740992.0""",
)


class _Emission(NamedTuple):
    """Samples of one lane: SQL expressions over the joined rows. ``turn`` orders samples of one row."""

    lane: int
    turn: int
    where: str
    label: str
    weight: str
    emission: str
    elapsed_days: int | None = None


def join_samples(
    candidates: pa.Table,
    labels: Mapping[str, pa.Table],
    policy: PolicyConfig,
    *,
    allowed_lateness_us: int,
    early_us: int,
    rules: Mapping[str, KindRule] | None = None,
) -> pa.Table:
    """All samples of ``policy``: label int8, weight float32, emission, ``<kind>_time`` per kind, and what locates them.

    ``rules``, by kind: columns of labels, which follow the times, and kinds that take back.

    ``candidates`` needs :data:`CANDIDATE_COLUMNS`. ``labels`` are the logs by kind, with own position columns; a row
    without request_id is an announced watermark. ``return_days`` adds elapsed_days and return_day, int16. ``_lane``
    int32 is the lane a sample belongs to, ``_at`` int64 its row in ``candidates``; sorted by both.

    A label's effective time is its event time or, when its partition's clock (newest time before it, minus the allowed
    lateness) is already past that, the clock. It counts by a horizon when it is no later than that after the request,
    and the label happened no more than ``early_us`` before the request.
    """
    connection = hermetic_connection(prepared=CHANCE_MACROS)
    try:
        numbered = candidates.select(CANDIDATE_COLUMNS).append_column(
            "_at", pa.array(range(len(candidates)), pa.int64())
        )
        connection.register("candidates", numbered)
        for kind, log in labels.items():
            connection.register(f"log_{kind}", log)
        query = _query(tuple(labels), policy, allowed_lateness_us, early_us, rules or {})
        return connection.sql(query).to_arrow_table()
    finally:
        connection.close()


def _query(
    kinds: tuple[str, ...],
    policy: PolicyConfig,
    allowed_lateness_us: int,
    early_us: int,
    rules: Mapping[str, KindRule],
) -> str:
    parts = [clocked_log(kind, allowed_lateness_us) for kind in kinds]
    parts += [first_not_early(kind, early_us) for kind in met_kinds(kinds, rules)]
    parts += [
        first_counted(rule, lane, horizon, early_us)
        for rule in counted_kinds(rules)
        for lane, horizon in enumerate(policy.horizons_us)
    ]
    first = ",\n".join(parts)
    emissions = {"delayed": _delayed, "fast_emit": _fast_emit, "return_days": _return_days}[policy.policy](policy)
    samples = "\nUNION ALL\n".join(_samples(e, kinds, policy, rules) for e in emissions)
    return f"""
        WITH {first},
        joined AS ({joined_rows(kinds, rules)})
        SELECT * EXCLUDE (_turn) FROM ({samples}) ORDER BY _lane, _at, _turn
    """


def early(label: str, kind: str, request: str, early_us: int) -> str:
    """SQL: whether the label of ``kind`` in relation ``label`` happened too long before ``request``; NULL without."""
    return f"{label}.{kind}_event_time < {request}.request_time - to_microseconds({early_us})"


def joined_rows(kinds: tuple[str, ...], rules: Mapping[str, KindRule]) -> str:
    """SQL: the candidates with, per kind, ``<kind>_effective`` and ``<kind>_event_time``; NULL without a label.

    They are those of the first that was not early; of a kind that is taken back, of the first that counts in lane 0.
    """
    of = {kind: not_early(kind) for kind in met_kinds(kinds, rules)}
    of |= {rule.kind: counted(rule, 0) for rule in rules.values() if rule.taken_back_by}
    times = "".join(f", {of[kind]}.{kind}_effective, {of[kind]}.{kind}_event_time" for kind in kinds)
    joins = " ".join(f"LEFT JOIN {of[kind]} ON {of[kind]}._at = candidates._at" for kind in kinds)
    return f"SELECT candidates.*{times} FROM candidates {joins}"


def _samples(e: _Emission, kinds: tuple[str, ...], policy: PolicyConfig, rules: Mapping[str, KindRule]) -> str:
    horizon = policy.horizons_us[e.lane]
    days = ""
    if e.elapsed_days is not None:
        since = f"epoch_us({policy.positive}_event_time) - epoch_us(request_time)"
        days = f"""{e.elapsed_days}::SMALLINT AS elapsed_days,
            CASE WHEN {e.label} THEN greatest(1, ceil(({since}) / {DAY_US}.0))::SMALLINT END AS return_day,"""
    there = {kind: within(kind, horizon) for kind in kinds}
    event = {kind: f"{kind}_event_time" for kind in kinds}
    for rule in rules.values():
        if rule.taken_back_by:
            event[rule.kind] = f"_{rule.kind}_time"
            there[rule.kind] = f"{event[rule.kind]} IS NOT NULL"
    times = ", ".join(f"CASE WHEN {there[kind]} THEN {event[kind]} END AS {kind}_time" for kind in kinds)
    values = "".join(
        f", CASE WHEN {there[kind]} THEN {value.name} END AS {value.name}"
        for kind, rule in rules.items()
        for value in rule.values
    )
    joins = " ".join(_counted_beside(rule, e.lane) for rule in counted_kinds(rules))
    return f"""
        SELECT request_id, item_id, request_time, ({e.label})::TINYINT AS label, ({e.weight})::FLOAT AS weight,
               '{e.emission}' AS emission, {days} {times}{values}, {e.lane}::INTEGER AS _lane, _at,
               {e.turn} AS _turn
        FROM joined {joins} WHERE {e.where}"""


def _counted_beside(rule: KindRule, lane: int) -> str:
    columns = "".join(f", {value.name}" for value in rule.values)
    mine = f"SELECT _at AS _{rule.kind}_at, {rule.kind}_event_time AS _{rule.kind}_time{columns}"
    return f"LEFT JOIN ({mine} FROM {counted(rule, lane)}) ON _{rule.kind}_at = _at"


def _delayed(policy: PolicyConfig) -> list[_Emission]:
    (window, *more) = policy.horizons_us
    exposed, positive = within(policy.exposure, window), within(policy.positive, window)
    kept, unexposed = policy.negative_fraction, policy.unexposed_fraction
    weight = f"CASE WHEN {positive} THEN 1.0 ELSE 1 / {kept!r}::DOUBLE END"
    chosen = f"{exposed} AND ({positive} OR {kept!r} = 1 OR chance(request_id, item_id) < {kept!r})"
    emissions = [_Emission(0, 0, chosen, positive, weight, "delayed")]
    if unexposed:
        drawn = f"NOT {exposed} AND chance(request_id, item_id) < {unexposed!r}"
        emissions.append(_Emission(0, 0, drawn, "false", f"1 / {unexposed!r}::DOUBLE", "unexposed"))
    if more:
        late = f"{exposed} AND NOT {positive} AND {within(policy.positive, more[0])}"
        emissions.append(_Emission(1, 0, late, "true", "1.0", "correction"))
    return emissions


def _fast_emit(policy: PolicyConfig) -> list[_Emission]:
    horizons = policy.horizons_us
    exposed = within(policy.exposure, horizons[0])
    # The weights of ``fast_emit.py``, said again, in float32 as there: test_join compares them bit for bit.
    of_positive, of_negative = "1::FLOAT + score", "(1::FLOAT - score) * (1::FLOAT + score)"
    emissions = [_Emission(0, 0, exposed, "false", of_negative, "negative")]
    for lane, horizon in enumerate(horizons):
        new = f"{exposed} AND {within(policy.positive, horizon)}"
        if lane:
            new += f" AND NOT {within(policy.positive, horizons[lane - 1])}"
        emissions.append(_Emission(lane, 1, new, "true", of_positive, "positive"))
    return emissions


def _return_days(policy: PolicyConfig) -> list[_Emission]:
    emissions = []
    for lane, age in enumerate(policy.days, start=1):
        alive = within(policy.exposure, policy.window)
        if lane > 1:
            alive += f" AND NOT {within(policy.positive, policy.horizons_us[lane - 1])}"
        label = within(policy.positive, policy.horizons_us[lane])
        emissions.append(_Emission(lane, 0, alive, label, "1.0", "aged", age))
    return emissions


def within(kind: str, horizon_us: int, prefix: str = "", of: str | None = None) -> str:
    """SQL: whether the label of ``kind`` took effect by the horizon (µs) after the request; never NULL.

    ``prefix`` is that of the label's time; ``of`` that of the request's, if it is another one.
    """
    asked = f"{prefix if of is None else of}request_time"
    return f"coalesce({prefix}{kind}_effective <= {asked} + to_microseconds({horizon_us}), false)"


def clocked(log: str, time: str, allowed_lateness_us: int) -> str:
    """SQL: the rows of ``log`` with ``clock``, their partition's clock before each; NULL where it had none."""
    return f"""
            SELECT *, max({time}) OVER (
                PARTITION BY _partition ORDER BY _offset, _row ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) - to_microseconds({allowed_lateness_us}) AS clock
            FROM {log}"""


def clocked_log(kind: str, allowed_lateness_us: int) -> str:
    """SQL: table expression ``<kind>_clocked``, the log of a kind as :func:`clocked` gives it."""
    return f"""
        {kind}_clocked AS ({clocked(f"log_{kind}", "event_time", allowed_lateness_us)})"""


def first_label(kind: str) -> str:
    """SQL: table expression ``<kind>_first``, the first label of each key, early or not, with its effective time.

    It is over ``<kind>_clocked``.
    """
    return f"""
        {kind}_first AS (
            SELECT request_id, item_id, event_time AS {kind}_event_time,
                   greatest(event_time, clock) AS {kind}_effective, _partition, _offset, _row
            FROM {kind}_clocked
            WHERE request_id IS NOT NULL
            QUALIFY row_number() OVER (
                PARTITION BY request_id, item_id
                ORDER BY greatest(event_time, clock), event_time, _partition, _offset, _row
            ) = 1
        )"""
