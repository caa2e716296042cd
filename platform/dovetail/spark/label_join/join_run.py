"""A join on a cluster: look at the snapshots, decide by what they are judged, join, and give each day's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from dovetail.features.serving.completing import completed_from
from dovetail.features.stored.day_engine import Versions, VersionTables
from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.batch.whole_samples import samples_of
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.platform.errors import WireError
from dovetail.spark.cluster import Cluster, Stage
from dovetail.spark.frames import RESULT
from dovetail.spark.label_join.day_samples import FinishDays
from dovetail.spark.label_join.join_survey import LookAt, Looked
from dovetail.spark.label_join.join_work import Consumer, JoinPlan, JoinWork, LogPart
from dovetail.spark.label_join.request_tasks import JoinRequests
from dovetail.spark.label_join.row_shipping import Attribute, Item, ShipByPair, ShipByRequest
from dovetail.spark.span_run import SparkDays, checked

__all__ = ["SparkJoin"]

#: Rows of a task at least, where there are enough for all cores.
_LEAST_PER_TASK = 100_000


@dataclass(frozen=True, slots=True)
class SparkJoin:
    """A cluster as the engine of joins."""

    cluster: Cluster

    def days(
        self, work: JoinWork, meanings: Meanings, versions: Versions, consume: Consumer
    ) -> Iterator[tuple[str, Any]]:
        """Each day that has samples, ascending, with the consumer's result.

        A result counts when all have been given: an error of any task is raised behind them.

        Raises:
            WireError, StateError, StoreError: files do not fit each other, or are gone.
        """
        items: list[Item] = [*work.snapshots, *work.parts]
        days = SparkDays(self.cluster)
        found = days.each(LookAt(work), items, at_once=self._partitions(len(items)))
        looked, newest = found[: len(work.snapshots)], found[len(work.snapshots) :]
        work = replace(work, parts=_with_clocks(work.parts, newest))
        stored = versions.stored({which for one in looked for which in one.versions}, days.each)
        plan = self._plan(work, meanings, looked, stored)
        items = [*work.snapshots, *work.parts]
        first = Stage(ShipByRequest(plan, items), self._partitions(len(items)))
        between = []
        if work.attributed:
            first = Stage(ShipByPair(plan, items), self._partitions(len(items)))
            between = [Stage(Attribute(plan, items), plan.tasks)]
        stages = [
            first,
            *between,
            Stage(JoinRequests(plan), plan.tasks),
            Stage(FinishDays(plan, stored, consume), len(work.days)),
        ]
        frames = self.cluster.run(len(items), stages)
        results = {frame.to: frame.value() for frame in frames if frame.kind == RESULT}
        for number in sorted(results):
            yield work.days[number], results[number]
        checked(frames)

    def _partitions(self, items: int) -> int:
        return max(1, min(items, 4 * self.cluster.tasks_at_once))

    def _plan(self, work: JoinWork, meanings: Meanings, looked: Sequence[Looked], stored: VersionTables) -> JoinPlan:
        try:
            snapshots = pa.concat_tables(
                [one.columns.empty_table() for one in looked], promote_options="permissive"
            ).schema
        except pa.ArrowTypeError as error:
            raise WireError(
                f"snapshots: a column was declared otherwise when some of the files were written: {error}; declare it "
                "as it was, and the new one under another name"
            ) from error
        numbers, marks = _meanings_of(work, meanings, looked)
        joined = [_joined_schema(work, meaning, snapshots) for meaning in numbers]
        features = completed_from(work.features, work.batch_views, stored.table)
        samples = [
            samples_of(snapshots.empty_table(), schema.empty_table(), features, kinds=m.kinds, rules=m.rules)
            for schema, m in zip(joined, numbers, strict=True)
        ]
        rows = sum(file.rows for file in work.snapshots) + sum(part.rows for part in work.parts)
        target = max(_LEAST_PER_TASK, min(work.limits.piece, rows // (2 * self.cluster.tasks_at_once)))
        whole = pa.concat_tables(samples, promote_options="permissive").schema
        return JoinPlan(work, numbers, marks, snapshots, joined, whole, max(1, -(-rows // target)))


def _with_clocks(parts: Sequence[LogPart], newest: Sequence[Any]) -> list[LogPart]:
    """``parts`` with the newest row before each, by the ``newest`` row of each."""
    found = list(parts)
    last: dict[tuple[int, int], Any] = {}
    order = sorted(range(len(parts)), key=lambda number: parts[number].first_offset)
    for number in order:
        part = parts[number]
        of = part.log, part.partition
        found[number] = replace(part, before=last.get(of))
        mine = newest[number]
        if mine is not None and (of not in last or mine.time_us > last[of].time_us):
            last[of] = mine
    return found


def _meanings_of(
    work: JoinWork, meanings: Meanings, looked: Sequence[Looked]
) -> tuple[list[LabelMeaning], Mapping[int, int]]:
    """The meanings that snapshots are judged by, in the order of their first ones, and the number of each mark's."""
    firsts: dict[int, tuple[int, int]] = {}
    judged: dict[int, LabelMeaning] = {}
    marks: dict[int, int] = {}
    for file, one in zip(work.snapshots, looked, strict=True):
        for mark, at in one.marks.items():
            meaning = meanings.of(mark, work.target)
            marks[mark], judged[meaning.fingerprint] = meaning.fingerprint, meaning
            first = file.partition, at
            firsts[meaning.fingerprint] = min(first, firsts.get(meaning.fingerprint, first))
    order = sorted(firsts, key=firsts.__getitem__)
    numbers = {fingerprint: number for number, fingerprint in enumerate(order)}
    return [judged[one] for one in order], {mark: numbers[of] for mark, of in marks.items()}


def _joined_schema(work: JoinWork, meaning: LabelMeaning, snapshots: pa.Schema) -> pa.Schema:
    logs = {log.name: log.shipped.empty_table() for log in work.logs}
    return join_samples(
        snapshots.empty_table(),
        {kind: logs[kind] for kind in meaning.kinds},
        meaning.targets[work.target],
        allowed_lateness_us=work.allowed_lateness_us,
        early_us=meaning.early_us,
        rules=meaning.rules,
    ).schema
