"""The audit of labels over a project's archives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from dovetail.app.datasets import samples_dataset
from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports.archived import (
    archived_labels,
    archived_letters,
    archived_samples,
    archived_snapshots,
    released_positions,
    target_of,
)
from dovetail.app.reports.scene_notes import with_retired
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.batch.by_meaning import audit_by_meaning
from dovetail.joiners.batch.label_audit import (
    AUDIT_ROWS,
    LabelAudit,
    Line,
)
from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE
from dovetail.platform.rows.accounts import READ
from dovetail.platform.rows.audit import Check
from dovetail.platform.rows.positions import Progress

__all__ = ["audit_archived_labels"]

#: Keys shown of a line.
_EXAMPLES = 3

_SAMPLE = pa.schema(
    [
        ("request_id", pa.string()), ("item_id", pa.int64()), ("label", pa.int8()), ("emission", pa.string()),
        ("_source_partition", pa.int32()), ("_source_offset", pa.int64()), ("_source_row", pa.int32()),
    ]
)  # fmt: skip


def audit_archived_labels(
    project: Project, stores: Stores, *, target: str = "", scene: str = ""
) -> tuple[LabelAudit, list[Check]]:
    """Every archived label and snapshot row of a scene with its outcome, and the checks against the agents' books.

    A label is the scene's whose request has its id; those of no scene's are told of with the scene without a name, as
    ``retired_scene`` where a scene that the project had before has their request. Per
    kind and partition: rows its agent has read = rows archived, of any scene, + dead letters. A dead letter has no key
    but its position, ``topic[partition]@offset``, and the day its message was sent. Nothing is archived: no lines.
    """
    parts = [_Part(one, stores, target if one.config.scene == scene else "") for one in project.scenes]
    chosen = next(part for part in parts if part.scene == scene)
    if all(part.snapshots.num_rows == 0 for part in parts):
        return LabelAudit([], pa.table({})), []
    books: dict[tuple[str, int, str], int] = {}
    for account in [*stores.labels.accounts(), *stores.registry.accounts()]:
        key = (account.stage, account.partition, account.outcome)
        books[key] = books.get(key, 0) + account.rows
    results = {part.scene: part.audited([other for other in parts if other is not part]) for part in parts}
    checks = []
    for kind, declared in project.config.labels.streams.items():
        for partition in range(declared.partitions):
            lines = [line for result in results.values() for line in result.lines]
            given = sum(line.rows for line in lines if (line.what, line.partition) == (kind, partition))
            read = books.get((f"labels.{kind}", partition, READ), 0) - _repeated(
                stores, kind, declared.topic, partition
            )
            ahead = _ahead(stores, label_scope(kind), kind, partition)
            what = f"{kind} labels of partition {partition}: read, and outcomes"
            if ahead < 0:  # the archive is: what it holds beyond is pending, and no agent's yet
                checks.append(Check(what.replace("read, and outcomes", "outcomes, and read"), given, read, True))
            else:
                checks.append(Check(what, read, given, ahead > 0))
    for part in parts:
        checks += part.checks(results[part.scene], books)
    return results[chosen.scene], checks


class _Part:
    """The archives of one scene, and their audit for a target."""

    def __init__(self, project: Project, stores: Stores, target: str) -> None:
        self._project, self._meanings = with_meanings(project, stores)
        self._stores, self._target, self.scene = stores, target, project.config.scene
        target_of(self._project, target)
        self.snapshots = archived_snapshots(stores, shared=False, scene=self.scene)

    def audited(self, others: Sequence[_Part]) -> LabelAudit:
        """Every label and snapshot row of the scene with its outcome, and the dead letters."""
        project, stores = self._project, self._stores
        samples = archived_samples(stores, self._target, self.scene)
        elsewhere = [part.snapshots for part in others if part.snapshots.num_rows]
        snapshots = self.snapshots if self.snapshots.num_rows else elsewhere[0].slice(0, 0)
        result = audit_by_meaning(
            snapshots,
            archived_labels(project, stores, self._meanings),
            samples if samples.num_rows else _SAMPLE.empty_table(),
            self._meanings,
            self._target,
            allowed_lateness_us=project.config.labels.allowed_lateness,
            released=released_positions(project, stores, self._target),
            others=pa.concat_tables([one.select(["request_id", "item_id"]) for one in elsewhere])
            if elsewhere
            else None,
            strays=not self.scene,
        )
        if not self.scene:
            result = with_retired(project.config, stores, result, [self.snapshots, *elsewhere])
        letters = _letters(project, stores)
        return LabelAudit([*result.lines, *letters.lines], pa.concat_tables([result.rows, letters.rows]))

    def checks(self, result: LabelAudit, books: Mapping[tuple[str, int, str], int]) -> Iterator[Check]:
        """That the totals of the scene's requests and snapshots are those of its agents' books."""
        config, of = self._project.config, f", scene {self.scene}" if self.scene else ""
        partitions = range(config.request.partitions)
        for partition in partitions:
            dead = books.get((config.in_scene(SNAPSHOT_SCOPE), partition, "dead_letter"), 0)
            mine = ("requests", partition, "dead_letter")
            found = sum(line.rows for line in result.lines if (line.what, line.partition, line.outcome) == mine)
            yield Check(f"requests of partition {partition}: refused, and dead letters{of}", dead, found)
        made = sum(line.rows for line in result.lines if (line.what, line.outcome) == ("snapshots", "pending"))
        total = sum(line.rows for line in result.lines if line.what == "snapshots")
        yield Check(f"snapshot rows: archived, and outcomes{of}", self.snapshots.num_rows, total)
        scope, dataset = samples_dataset(self._target, self.scene), config.in_scene("snapshots")
        met = sum(rows for (stage, _, what), rows in books.items() if stage == scope and what == READ)
        again = sum(rows for (stage, _, what), rows in books.items() if stage == scope and what == "duplicate")
        ahead_of_archive = any(_ahead(self._stores, scope, dataset, partition) > 0 for partition in partitions)
        what = f"snapshot rows: met by the sample agent, and not pending{of}"
        yield Check(what, met - again, total - made, ahead_of_archive)


def _ahead(stores: Stores, agent: str, dataset: str, partition: int) -> int:
    """How many messages of a partition its agent has read and the archive has not; negative the other way round."""
    nothing = Progress()
    read = stores.labels.progress(agent).get(partition, nothing).next_offset
    return read - stores.registry.progress(f"archive.{dataset}").get(partition, nothing).next_offset


def _repeated(stores: Stores, kind: str, topic: str, partition: int) -> int:
    """How many rows of a partition its agent has read that repeat others by their id: the archive has none of them."""
    read = stores.labels.progress(label_scope(kind)).get(partition, Progress()).next_offset
    return stores.registry.events.repeated_before(topic or kind, partition, read)


def _letters(project: Project, stores: Stores) -> LabelAudit:
    """The dead letters of a scene's requests, as lines and rows; with the one without a name, those of labels, too."""
    config = project.config
    kinds = () if config.scene else config.labels.streams
    whats = {f"labels.{kind}": kind for kind in kinds} | {config.in_scene(SNAPSHOT_SCOPE): "requests"}
    lines: dict[tuple[str, str, int], Line] = {}
    rows = []
    for letter in archived_letters(stores).to_pylist():
        what = whats.get(letter["stage"])
        if what is None:
            continue
        day, partition = letter["sent"].strftime("%Y-%m-%d"), letter["partition"]
        key = (what, day, partition)
        line = lines.setdefault(key, Line(what, day, partition, "dead_letter", 0, []))
        shown = f"{letter['topic']}[{partition}]@{letter['offset']}"
        lines[key] = line._replace(rows=line.rows + letter["rows"], keys=[*line.keys, shown][:_EXAMPLES])
        rows += [(*key, "dead_letter", None, None, letter["offset"], n) for n in range(letter["rows"])]
    columns = list(zip(*rows, strict=True)) or [()] * len(AUDIT_ROWS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, AUDIT_ROWS, strict=True)]
    # In the order of AUDIT_ROWS: what, day, partition, outcome, and then the key and where it stood.
    return LabelAudit([lines[key] for key in sorted(lines)], pa.table(arrays, schema=AUDIT_ROWS))
