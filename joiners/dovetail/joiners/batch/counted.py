"""The labels that count: of each kind the first that is not early; of some all, and what their columns come to; in SQL.

It shares no code with ``values/counting.py``, which must agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from dovetail.joiners.values.kind_rules import KindRule, ValueColumn

__all__ = ["counted", "counted_kinds", "first_counted", "first_not_early", "met_kinds", "not_early"]


#: When a label took effect, and the order of labels.
_EFFECT = "greatest(l.event_time, l.clock)"
_ORDER = f"{{'a': {_EFFECT}, 'b': l.event_time, 'c': l._partition, 'd': l._offset, 'e': l._row}}"


def counted_kinds(rules: Mapping[str, KindRule]) -> list[KindRule]:
    """The kinds whose labels are counted one by one."""
    return [rule for rule in rules.values() if rule.counted]


def counted(rule: KindRule, lane: int) -> str:
    """The name of the table expression with what counts of a kind in a lane, by ``_at`` of its candidate."""
    return f"{rule.kind}_counted_{lane}"


def met_kinds(kinds: Iterable[str], rules: Mapping[str, KindRule]) -> list[str]:
    """The kinds of which the first label that was not early counts: those that none takes back."""
    return [kind for kind in kinds if kind not in rules or not rules[kind].taken_back_by]


def not_early(kind: str) -> str:
    """The name of the table expression with the first label of a kind that was not early, by ``_at``."""
    return f"{kind}_not_early"


def first_not_early(kind: str, early_us: int) -> str:
    """SQL: the table expression :func:`not_early`, over ``candidates`` (with ``_at``) and ``<kind>_clocked``.

    Its columns are ``_at``, ``<kind>_effective`` and ``<kind>_event_time``.
    """
    return f"""
        {not_early(kind)} AS (
            SELECT _at, head.effective AS {kind}_effective, head.event_time AS {kind}_event_time
            FROM (
                SELECT c._at, arg_min({{'effective': {_EFFECT}, 'event_time': l.event_time}}, {_ORDER}) AS head
                FROM candidates c
                JOIN {kind}_clocked l ON l.request_id = c.request_id AND l.item_id = c.item_id
                WHERE l.event_time >= c.request_time - to_microseconds({early_us})
                GROUP BY c._at
            )
        )"""


def first_counted(rule: KindRule, lane: int, horizon_us: int, early_us: int) -> str:
    """SQL: table expressions for :func:`counted`, over ``candidates`` (with ``_at``) and ``<kind>_clocked``.

    Its columns are ``_at``, ``<kind>_effective`` and ``<kind>_event_time`` of the first label that counts, and the
    rule's own. A second one, ``<kind>_taken_<lane>``, has in ``until`` the time up to which labels are taken back.
    """
    taken = f"{rule.kind}_taken_{lane}"
    those = (
        "JOIN {log}_clocked l ON l.request_id = c.request_id AND l.item_id = c.item_id "
        f"WHERE {_in_time('c', horizon_us, early_us)}"
    )
    backs = "\nUNION ALL\n".join(
        f"SELECT c._at, l.event_time FROM candidates c {those.format(log=kind)}" for kind in rule.taken_back_by
    )
    none = "SELECT 0::BIGINT AS _at, NULL::TIMESTAMP AS event_time WHERE false"
    values = "".join(f", {_aggregate(value, _ORDER)} AS {value.name}" for value in rule.values)
    names = "".join(f", {value.name}" for value in rule.values)
    return f"""
        {taken} AS (SELECT _at, max(event_time) AS until FROM ({backs or none}) GROUP BY _at),
        {counted(rule, lane)} AS (
            SELECT _at, head.effective AS {rule.kind}_effective, head.event_time AS {rule.kind}_event_time{names}
            FROM (
                SELECT c._at, arg_min({{'effective': {_EFFECT}, 'event_time': l.event_time}}, {_ORDER}) AS head{values}
                FROM candidates c {those.format(log=rule.kind)}
                  AND NOT EXISTS (SELECT 1 FROM {taken} t WHERE t._at = c._at AND t.until >= l.event_time)
                GROUP BY c._at
            )
        )"""


def _in_time(request: str, horizon_us: int, early_us: int) -> str:
    return (
        f"greatest(l.event_time, l.clock) <= {request}.request_time + to_microseconds({horizon_us}) "
        f"AND l.event_time >= {request}.request_time - to_microseconds({early_us})"
    )


def _aggregate(value: ValueColumn, order: str) -> str:
    column = f'l."{value.column}"'
    if pa.types.is_floating(value.declared):
        column = f"({column} + 0)"  # -0.0 is kept as 0.0, by the stream, too
    if value.aggregate == "sum":
        scale = value.declared.scale if pa.types.is_decimal(value.declared) else 0
        return f"sum({column}::DECIMAL(38,{scale}))::DECIMAL(38,{scale})"
    if value.aggregate in ("first", "last"):
        return f"{'arg_min' if value.aggregate == 'first' else 'arg_max'}({column}, {order})"
    return f"{value.aggregate}({column})"
