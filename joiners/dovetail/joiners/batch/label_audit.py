"""The audit of labels and snapshots, key by key, from the archives alone.

Every label row and every snapshot row ever archived gets one outcome, worked out in DuckDB from the logs and the
samples that were really made; the stream's own books are not consulted. What should be a sample and is not is ``lost``,
a sample that is there more than once, or of nothing, is ``surplus``: neither may occur.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.batch.attributed import UNATTRIBUTED
from dovetail.joiners.batch.counted import first_counted, first_not_early, met_kinds
from dovetail.joiners.batch.join import (
    CHANCE_MACROS,
    clocked_log,
    early,
    first_label,
    joined_rows,
    within,
)
from dovetail.joiners.values.kind_rules import KindRule
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.duck.hermetic import hermetic_connection
from dovetail.platform.rows.positions import LANE

__all__ = ["AUDIT_ROWS", "WRONG", "LabelAudit", "Line", "Owners", "audit_labels", "lines_of"]

#: Every row behind the lines, with its key and its position.
AUDIT_ROWS = pa.schema(
    [
        ("what", pa.string()), ("day", pa.string()), ("partition", pa.int32()), ("outcome", pa.string()),
        ("request_id", pa.string()), ("item_id", pa.string()), ("offset", pa.int64()), ("row", pa.int32()),
    ]
)  # fmt: skip
#: Outcomes that must not occur.
WRONG = ("lost", "surplus")


class Line(NamedTuple):
    """``rows`` rows of ``what`` (a label kind, ``snapshots`` or ``samples``), of a UTC day and partition, by outcome.

    ``keys``: some of them, as ``request_id/item_id``.
    """

    what: str
    day: str
    partition: int
    outcome: str
    rows: int
    keys: list[str]


class LabelAudit(NamedTuple):
    """Lines by what, day, partition and outcome; and every row behind them.

    ``rows`` has the columns of :data:`AUDIT_ROWS`.
    """

    lines: list[Line]
    rows: pa.Table

    @property
    def wrong(self) -> list[Line]:
        """The lines that should not be there."""
        return [line for line in self.lines if line.outcome in WRONG]

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON-ready data."""
        return [line._asdict() for line in self.lines]


class Owners(NamedTuple):
    """The labels that are told of here, where settings have changed and each audit is of the snapshots of some.

    ``keys``: request_id and item_id; ``mine`` bool [n]: whether the labels of each are. ``strays``: so are those of all
    other keys, and of no request.
    """

    keys: pa.Table
    mine: npt.NDArray[np.bool_]
    strays: bool


def lines_of(rows: pa.Table, examples: int = 3) -> list[Line]:
    """The lines of audited ``rows`` (AUDIT_ROWS), with as many keys as ``examples``."""
    connection = hermetic_connection()
    key = "coalesce(request_id, 'NULL') || '/' || coalesce(item_id, 'NULL')"
    try:
        connection.register("rows_seen", rows)
        lines = connection.sql(
            f"""SELECT what, day, partition, outcome, count(*),
                       list(DISTINCT {key} ORDER BY {key})[:{examples}]
                FROM rows_seen GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
        ).fetchall()
        return [Line(*line) for line in lines]
    finally:
        connection.close()


def audit_labels(
    snapshots: pa.Table,
    labels: Mapping[str, pa.Table],
    samples: pa.Table,
    policy: PolicyConfig,
    *,
    allowed_lateness_us: int,
    early_us: int,
    released: Mapping[tuple[int, int], int],
    examples: int = 3,
    rules: Mapping[str, KindRule] | None = None,
    owners: Owners | None = None,
) -> LabelAudit:
    """Audit one target.

    ``snapshots`` needs request_id, item_id, request_time and own positions; ``labels`` are the archived logs by kind;
    ``samples`` needs request_id, item_id, label, emission and source positions. ``released`` gives, by lane and
    snapshot partition, the first packed position (see ``positions.pack``) not yet released; absent means none.

    Outcomes of labels: ``sampled``, ``corrected``, ``down_sampled``, ``unexposed`` (no exposure in time), ``late``
    (after every window), ``early`` (more than ``early_us`` before its request), ``unattributed`` (of no request; its
    key is ``user_id/item_id``), ``duplicate``, ``retracted`` (taken back in time; ``rules`` say by which
    kinds), ``orphaned`` (no snapshot, and every window has passed), ``pending``,
    ``lost``. A snapshot row is ``pending`` before its window has passed, and ``waiting`` while a later lane is to say.
    """
    connection = hermetic_connection(prepared=CHANCE_MACROS)
    try:
        at = ["request_id", "item_id", "request_time", "_partition", "_offset", "_row"]
        numbered = snapshots.select(at).append_column("_at", pa.array(range(snapshots.num_rows), pa.int64()))
        connection.register("candidates", numbered)
        made = ["request_id", "item_id", "label", "emission", "_source_partition", "_source_offset", "_source_row"]
        connection.register("samples", samples.select(made))
        bounds = [(lane, partition, bound) for (lane, partition), bound in released.items()]
        columns = list(zip(*bounds, strict=True)) or [(), (), ()]
        names = ["lane", "partition", "bound"]
        connection.register("released", pa.table([pa.array(c, pa.int64()) for c in columns], names=names))
        for kind, log in labels.items():
            connection.register(f"log_{kind}", log)
        attributed = {kind for kind, log in labels.items() if UNATTRIBUTED in log.column_names}
        strays = owners is None or owners.strays
        given = numbered.slice(0, 0).append_column("mine", pa.array([], pa.bool_()))
        if owners is not None:
            given = owners.keys.append_column("mine", pa.array(owners.mine, pa.bool_()))
        connection.register("owners", given)
        parts = _AuditSql(tuple(labels), attributed, policy, early_us, rules or {}, strays=strays)
        query = f"FROM ({parts.query(allowed_lateness_us)}) ORDER BY ALL"
        rows = connection.sql(query).to_arrow_table().cast(AUDIT_ROWS)
        return LabelAudit(lines_of(rows, examples), rows)
    finally:
        connection.close()


class _AuditSql:
    """The audit's SQL, for one policy."""

    def __init__(
        self,
        kinds: tuple[str, ...],
        attributed: Collection[str],
        policy: PolicyConfig,
        early_us: int,
        rules: Mapping[str, KindRule],
        *,
        strays: bool,
    ) -> None:
        self.kinds = kinds
        self.attributed = attributed
        self.policy = policy
        self.early_us = early_us
        self.rules = rules
        self.strays = strays
        self.taken_back = [rule for rule in rules.values() if rule.taken_back_by]
        #: The lane that sends the first sample of a row.
        self.first = 1 if policy.policy == "return_days" else 0

    def query(self, allowed_lateness_us: int) -> str:
        """One row per label, snapshot and wrong sample."""
        horizon = self.policy.horizons_us[0]
        parts = [clocked_log(kind, allowed_lateness_us) for kind in self.kinds]
        parts += [first_label(kind) for kind in self.kinds]
        parts += [first_not_early(kind, self.early_us) for kind in met_kinds(self.kinds, self.rules)]
        parts += [first_counted(rule, 0, horizon, self.early_us) for rule in self.taken_back]
        firsts = ",\n".join(parts)
        clock = " UNION ALL ".join(
            f"SELECT max(event_time) - to_microseconds({allowed_lateness_us}) AS c FROM log_{kind} GROUP BY _partition"
            for kind in self.kinds
        )
        kinds = "\nUNION ALL\n".join(
            [
                *map(self._labels, self.kinds),
                *(self._unattributed(kind) for kind in self.kinds if self.strays and kind in self.attributed),
            ]
        )
        lanes = range(len(self.policy.horizons_us))
        free = ", ".join(f"coalesce({self._bound(k)}, 0) > here AS released_{k}" for k in lanes)
        return f"""
            WITH {firsts},
            newest AS (SELECT min(c) AS watermark FROM ({clock})),
            made AS (SELECT _source_partition % {LANE} AS _partition, _source_offset AS _offset, _source_row AS _row,
                            max(label) AS positive, bool_or(emission = 'correction') AS corrected
                     FROM samples GROUP BY ALL),
            met AS (SELECT *, {free} FROM (SELECT *, _offset * 1048576 + _row AS here
                    FROM ({joined_rows(self.kinds, self.rules)}))),
            known AS (SELECT met.*, made.positive IS NOT NULL AS has_sample,
                             coalesce(made.positive, 0) = 1 AS has_positive,
                             coalesce(made.corrected, false) AS has_correction
                      FROM met LEFT JOIN made USING (_partition, _offset, _row))
            {kinds}
            UNION ALL {self._snapshots()}
            UNION ALL {self._surplus()}
        """

    @staticmethod
    def _bound(lane: int) -> str:
        return f"(SELECT max(bound) FROM released WHERE lane = {lane} AND released.partition = _partition)"

    def _labels(self, kind: str) -> str:
        """Of several snapshot rows with one key (a request that came twice) the label is told of the first."""
        return f"""
            SELECT '{kind}' AS what, strftime(l.event_time, '%Y-%m-%d') AS day, l._partition AS partition,
                   CASE WHEN f._offset != l._offset OR f._row != l._row OR f._partition != l._partition THEN 'duplicate'
                        WHEN k.request_id IS NULL THEN CASE WHEN
                            f.{kind}_effective + to_microseconds({self.policy.horizons_us[-1] + self.early_us})
                            < (SELECT watermark FROM newest) THEN 'orphaned' ELSE 'pending' END
                        WHEN {early("f", kind, "k", self.early_us)}
                            THEN CASE WHEN NOT k.released_0 THEN 'pending' WHEN f.{kind}_effective
                                <= k.request_time + to_microseconds({self.policy.horizons_us[0]}) THEN 'early'
                                ELSE 'late' END
                        {self._retracted(kind)} ELSE {self._outcome(kind)} END AS outcome,
                   l.request_id, l.item_id::VARCHAR AS item_id, l._offset AS "offset", l._row AS "row"
            FROM log_{kind} l JOIN {kind}_first f USING (request_id, item_id)
            LEFT JOIN (FROM known QUALIFY row_number() OVER (PARTITION BY request_id, item_id ORDER BY here) = 1) k
                ON k.request_id = l.request_id AND k.item_id = l.item_id
            LEFT JOIN owners ON owners.request_id = l.request_id AND owners.item_id = l.item_id
            WHERE l.request_id IS NOT NULL AND coalesce(owners.mine, {str(self.strays).lower()})"""

    def _unattributed(self, kind: str) -> str:
        """Labels of no request; one that came after every window was late before anybody looked for its request."""
        late = f"clock > event_time + to_microseconds({self.policy.horizons_us[-1]})"
        return f"""
            SELECT '{kind}', strftime(event_time, '%Y-%m-%d'), _partition,
                   CASE WHEN coalesce({late}, false) THEN 'late' ELSE 'unattributed' END,
                   user_id::VARCHAR, item_id::VARCHAR, _offset, _row
            FROM {kind}_clocked WHERE {UNATTRIBUTED}"""

    def _retracted(self, kind: str) -> str:
        """Of a kind that is taken back, when the first label ``f`` of a key was: nothing else is left to say of it.

        One that took effect after the first window is late, whatever counts of the others.
        """
        if all(rule.kind != kind for rule in self.taken_back):
            return ""
        late = f"NOT {within(kind, self.policy.horizons_us[0], 'f.', 'k.')}"
        until = f"(SELECT until FROM {kind}_taken_0 t WHERE t._at = k._at)"
        return f"""WHEN {late} THEN CASE WHEN k.released_0 THEN 'late' ELSE 'pending' END
                   WHEN {until} >= f.{kind}_event_time
                       THEN CASE WHEN k.released_0 THEN 'retracted' ELSE 'pending' END"""

    def _outcome(self, kind: str) -> str:
        """The outcome of the first label of a key that has a snapshot ``k``."""
        policy, horizons = self.policy, self.policy.horizons_us
        exposed = within(policy.exposure, horizons[0], "k.")
        if kind != policy.positive:
            return f"""CASE WHEN NOT {within(kind, horizons[0], "k.")} THEN 'late'
                            WHEN NOT k.released_0 THEN 'pending' WHEN NOT {exposed} THEN 'unexposed'
                            WHEN NOT k.released_{self.first} THEN 'pending' WHEN k.has_sample THEN 'sampled'
                            WHEN {self._down_sampled("k.")} THEN 'down_sampled' ELSE 'lost' END"""
        steps = []
        for lane in range(self.first, len(horizons)):
            corrects = policy.policy == "delayed" and lane == 1
            has, what = ("k.has_correction", "corrected") if corrects else ("k.has_positive", "sampled")
            steps.append(
                f"""WHEN {within(kind, horizons[lane], "k.")} THEN
                    CASE WHEN NOT k.released_{lane} THEN 'pending' WHEN {has} THEN '{what}' ELSE 'lost' END"""
            )
        return f"""CASE WHEN NOT k.released_0 THEN 'pending'
                        WHEN NOT {within(kind, horizons[-1], "k.")} THEN 'late'
                        WHEN NOT {exposed} THEN CASE WHEN {within(kind, horizons[0], "k.")} THEN 'unexposed'
                                                     ELSE 'late' END
                        {" ".join(steps)} END"""

    def _down_sampled(self, prefix: str) -> str:
        kept, horizon = self.policy.negative_fraction, self.policy.horizons_us[0]
        if kept == 1:
            return "false"
        positive = within(self.policy.positive, horizon, prefix)
        return f"NOT {positive} AND chance({prefix}request_id, {prefix}item_id) >= {kept!r}"

    def _snapshots(self) -> str:
        exposed = within(self.policy.exposure, self.policy.horizons_us[0])
        drawn = self.policy.unexposed_fraction
        unexposed = "'unexposed'"
        if drawn:
            unexposed = f"""CASE WHEN chance(request_id, item_id) >= {drawn!r} THEN 'unexposed'
                                 WHEN has_sample THEN 'unexposed_sampled' ELSE 'lost' END"""
        return f"""
            SELECT 'snapshots', strftime(request_time, '%Y-%m-%d'), _partition,
                   CASE WHEN NOT released_0 THEN 'pending' WHEN NOT {exposed} THEN {unexposed}
                        WHEN NOT released_{self.first} THEN 'waiting' WHEN has_sample THEN 'sampled'
                        WHEN {self._down_sampled("")} THEN 'down_sampled' ELSE 'lost' END,
                   request_id, item_id::VARCHAR, _offset, _row
            FROM known"""

    @staticmethod
    def _surplus() -> str:
        """Samples sent twice for one snapshot row, lane and emission, or for a row that is not there."""
        return f"""
            SELECT 'samples', coalesce(strftime(c.request_time, '%Y-%m-%d'), ''), _source_partition % {LANE}, 'surplus',
                   s.request_id, s.item_id::VARCHAR, _source_offset, _source_row
            FROM samples s LEFT JOIN candidates c
                ON c._partition = _source_partition % {LANE} AND c._offset = _source_offset AND c._row = _source_row
            QUALIFY c.request_id IS DISTINCT FROM s.request_id OR c.item_id IS DISTINCT FROM s.item_id
                OR row_number() OVER (PARTITION BY _source_partition, _source_offset, _source_row, emission
                                      ORDER BY s.request_id) > 1"""
