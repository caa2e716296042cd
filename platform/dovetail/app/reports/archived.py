"""The archives of one target, and how far its agents had come when they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.datasets import ANNOUNCED, DEAD_LETTERS, samples_dataset
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.batch.attributed import attribute_labels
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.sample_agent import lanes_of
from dovetail.joiners.snapshots.shape import flat_snapshots
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import PolicyConfig
from dovetail.platform.config.served.scenes import in_scene
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.shared import without_shared
from dovetail.platform.rows.positions import OWN_COLUMNS, POSITIONS_PER_OFFSET, own_position_columns

__all__ = [
    "archived_labels",
    "archived_letters",
    "archived_samples",
    "archived_snapshots",
    "events_until",
    "label_columns",
    "released_positions",
    "target_of",
]


def target_of(project: Project, name: str) -> PolicyConfig:
    """The policy of a target; the primary one is the empty name.

    Raises:
        ConfigError: there is no such target.
    """
    targets = project.config.labels.every_target()
    if name not in targets:
        known = ", ".join(sorted(filter(None, targets))) or "none but the primary one"
        where = f"[scenes.{project.config.scene}.labels.targets]" if project.config.scene else "[labels.targets]"
        raise ConfigError(f"--target {name}: no such target in {where}; there are: {known}")
    return targets[name]


def archived_labels(project: Project, stores: Stores, meanings: Meanings) -> dict[str, pa.Table]:
    """The label logs by kind, announced watermarks included; attributed ones with the requests found in batch.

    Kinds that are not declared any more, which an older meaning has, are there as they were archived.
    """
    logs = {
        kind: read_dataset(stores.registry, stores.offline, kind, columns)
        for kind, columns in label_columns(project, meanings).items()
    }
    labels = project.config.labels
    if not labels.attributed:
        return logs
    empty = pa.schema([*project.request.arrow, *own_position_columns()])
    requests = read_dataset(stores.registry, stores.offline, project.config.in_scene("requests"), empty)
    clock_columns = ["request_time", *OWN_COLUMNS]
    log = pa.concat_tables(
        [
            requests.select(clock_columns),
            read_dataset(stores.registry, stores.offline, ANNOUNCED, requests.select(clock_columns).schema),
        ],
        promote_options="permissive",
    )
    asked = flatten_requests(requests).select(["request_id", "user_id", "item_id", *clock_columns])
    for kind, within_us in labels.attributed.items():
        logs[kind] = attribute_labels(
            logs[kind],
            asked,
            log,
            within_us=within_us,
            allowed_lateness_us=labels.allowed_lateness,
            request_lateness_us=project.config.request.allowed_lateness,
        )
    return logs


def label_columns(project: Project, meanings: Meanings) -> dict[str, pa.Schema]:
    """By kind of any meaning, the columns of its archived log: those declared, own positions last."""
    item_type = project.request_schema.field("item_id").type
    keys = {"request_id": pa.string(), "item_id": item_type, "event_time": pa.timestamp("us")}
    found = {}
    for rule in (rule for meaning in meanings.all() for rule in meaning.rules.values()):
        if rule.kind not in project.label_schemas:
            of_values = {value.column: value.declared for value in rule.values}
            found[rule.kind] = pa.schema([*(keys | of_values).items(), *own_position_columns()])
    for kind, schema in project.label_schemas.items():
        found[kind] = pa.schema([*schema.arrow, *own_position_columns()])
    return found


def archived_letters(stores: Stores) -> pa.Table:
    """The dead letters: sent, stage, topic, partition, offset, rows, reason; one published again is there once."""
    letters = read_dataset(stores.registry, stores.offline, DEAD_LETTERS)
    if letters.num_rows == 0:
        return letters
    grouped = letters.group_by(["sent", "stage", "topic", "partition", "offset", "rows", "reason"]).aggregate([])
    return grouped.sort_by([(name, "ascending") for name in ("stage", "partition", "offset")])


def archived_samples(stores: Stores, target: str, scene: str = "") -> pa.Table:
    """The samples the stream made; without columns when there are none."""
    return read_dataset(stores.registry, stores.offline, samples_dataset(target, scene))


def archived_snapshots(
    stores: Stores, *, shared: bool = True, columns: Sequence[str] | None = None, scene: str = ""
) -> pa.Table:
    """The snapshots of a scene, with the columns they have now, however old they are; no columns when there are none.

    Without ``shared`` the features are left out that candidates of a request share: long lists, once for each of them.
    With ``columns`` there are those, where a file has them, and nothing else is held in memory.
    """

    def each(snapshots: pa.Table) -> pa.Table:
        flat = flat_snapshots(snapshots if shared else without_shared(snapshots))
        return flat if columns is None else flat.select([name for name in columns if name in flat.column_names])

    return read_dataset(stores.registry, stores.offline, in_scene("snapshots", scene), each=each)


def released_positions(project: Project, stores: Stores, target: str) -> dict[tuple[int, int], int]:
    """By lane and snapshot partition: the first packed snapshot position not yet released, from the label store."""
    declared = target_of(project, target)
    bounds: dict[tuple[int, int], int] = {}
    config = project.config
    for lane in lanes_of(target, config.request.snapshots_topic, declared.held_topics, config.scene):
        for partition, progress in stores.labels.progress(lane.name).items():
            if lane.number == 0:
                bounds[0, partition] = progress.next_offset * POSITIONS_PER_OFFSET
            else:  # it has seen every row forwarded up to its last source; what was not forwarded gives no sample
                bounds |= {(lane.number, source): last + 1 for source, last in progress.sources.items()}
    return bounds


def events_until(logs: Mapping[str, DayFiles], stream: str, until_us: int, keys: Mapping[str, pa.Scalar]) -> pa.Table:
    """The archived rows of a stream up to a time, of the keys given."""
    parts = []
    for part in logs[stream].read(None, None, until_us):
        for column, key in keys.items():
            part = part.filter(pc.equal(part.column(column), key))
        types = {field.name: field.type for field in logs[stream].declared or part.schema}
        # A column that was declared otherwise then is none of what the view reads.
        parts.append(part.select([f.name for f in part.schema if types.get(f.name, f.type) == f.type]))
    if not parts:
        schema = logs[stream].schema()
        return pa.table({}) if schema is None else schema.empty_table()
    return pa.concat_tables(parts, promote_options="permissive")
