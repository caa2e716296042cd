"""Every store against the archive of its topic: what was deleted, damaged or set back is found, and said what to do.

Each comparison is exact: of two stores that are whole, one cannot be behind the other in this way, however a worker was
stopped. What may be on the way is no difference: the archive waits for its files to fill, and an agent may be behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.datasets import datasets, samples_dataset
from dovetail.app.jobs import archived_events
from dovetail.app.reports.archived import released_positions
from dovetail.app.storage import Stores, stores_of
from dovetail.features import Project
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import place_of
from dovetail.features.stored.state_sample import sample_state
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import ModelError, StateError, StoreError, WireError
from dovetail.platform.rows.audit import Check
from dovetail.platform.rows.positions import LANE, Progress, seen_column
from dovetail.platform.stores.registry.store import DataFile

__all__ = ["KeptStores", "audit_stores"]

_KEYS = 32
_AGAIN = "start the worker: it reads again from there, if the broker still has those messages"


class KeptStores(NamedTuple):
    """The checks, and what is wrong, with what to do about it."""

    checks: list[Check]
    wrong: list[str]


def audit_stores(project: Project, stores: Stores) -> KeptStores:
    """Compare the online, label and offline store, the registry and the models with what is archived.

    ``project`` has the views as they are registered. A sample of keys of each streaming view is recomputed.
    """
    names = [dataset.name for dataset in datasets(project)]
    archived = {name: [(file, _rows(stores, file.path)) for file in stores.registry.files(name)] for name in names}
    whole = {name for name, files in archived.items() if all(found == file.rows for file, found in files)}
    parts = [
        *_archive(project, stores, archived),
        *_online(project, stores, whole),
        *(found for scene in project.scenes for found in _labels(scene, stores)),
        *(found for scene in project.scenes for found in _models(scene, stores_of(scene.config, stores))),
    ]
    checks = [part for part in parts if isinstance(part, Check)]
    return KeptStores(checks, [part for part in parts if isinstance(part, str)])


def _archive(
    project: Project, stores: Stores, archived: Mapping[str, Sequence[tuple[DataFile, int | str]]]
) -> Iterator[Check | str]:
    """The registered files are there with their rows, and as many rows as the archive's account says.

    ``archived``: by dataset, each registered file and what :func:`_rows` found of it.
    """
    books: dict[str, int] = {}
    for account in stores.registry.accounts():
        if account.outcome == "archived":
            books[account.stage] = books.get(account.stage, 0) + account.rows
    there = {path for path, _ in stores.offline.find()}
    for name, files in archived.items():
        rows = 0
        for file, opened in files:
            found = opened if file.path in there else "is not there"
            rows += found if isinstance(found, int) else 0
            if found != file.rows:
                what = found if isinstance(found, str) else f"has {found:,} rows instead of {file.rows:,}"
                yield (
                    f"archive of {name}: {stores.offline.path(file.path)} {what}: restore it from a copy; without one, "
                    "what it held is lost to backfills and verdicts, and serving goes on"
                )
        yield Check(f"{name}: archived, and rows in files", books.get(f"archive.{name}", 0), rows)
        lost = [path for path in there if path.startswith(f"{name}/day=")]
        if not files and lost:
            yield (
                f"registry: {len(lost)} files of {name} are in the offline store, and it knows none: restore it from "
                f"a copy; or move them away and {_AGAIN} and archives anew"
            )
    for view in project.batch_views:
        for version in stores.registry.versions(view):
            if version.path not in there:
                yield (
                    f"batch view {view}: {stores.offline.path(version.path)} is not there: restore it from a copy; "
                    "samples of that time cannot be made again without it"
                )


def _rows(stores: Stores, path: str) -> int | str:
    try:
        with stores.offline.open(path) as file:
            return int(file.metadata.num_rows)
    except StoreError as error:
        return f"cannot be read ({error.__cause__ or error})"


def _online(project: Project, stores: Stores, undamaged: AbstractSet[str]) -> Iterator[Check | str]:
    """The state of a view includes what was served with it, and is that of the archived events up to its positions.

    It is not compared with an archive that is not among the ``undamaged``: that is said by the archive's own check.
    """
    served = _most_seen(project, stores)
    events = archived_events(project, stores)
    for view in project.stream_views.values():
        found = {source: at.next_offset for source, at in stores.online.progress(view.name).items()}
        kept = {name: stores.registry.progress(f"archive.{name}") for name in view.stream_names}
        whole, covered = True, True
        for source in sorted({*found, *served.get(view.name, {})}):
            place = place_of(view, source)
            stream = view.reads[place.branch].stream.name
            at, told = found.get(source, 0), served.get(view.name, {}).get(source, 0)
            archived = kept[stream].get(place.partition, Progress(0)).next_offset
            what = f"{stream}[{place.partition}] in {view.name}"
            yield Check(f"{what}: included in state, and in what was served", at, told, True)
            covered = covered and archived >= at
            if told > at:
                whole = False
                yield (
                    f"online store: the state of {view.name} includes {stream}[{place.partition}] up to {at:,}, and "
                    f"requests were answered with it up to {told:,}: it was deleted or set back; {_AGAIN}; if not, "
                    f"`dovetail bootstrap {view.name} --replace`"
                )
        if whole and covered and found and undamaged >= set(view.stream_names):
            yield from _sampled(view, stores, events)


def _sampled(view: StreamView, stores: Stores, events: Mapping[str, DayFiles]) -> Iterator[Check | str]:
    rebuild = f"stop the workers and run `dovetail bootstrap {view.name} --replace`"
    try:
        sample = sample_state(view, stores.online, events, _KEYS)
    except StateError as error:
        yield f"online store: a state of {view.name} cannot be read: {error}; {rebuild}"
        return
    except (WireError, StoreError) as error:
        yield f"archive of {', '.join(view.stream_names)}: it cannot be compared with the state of {view.name}: {error}"
        return
    yield Check(f"keys of {view.name}: recomputed from the archive, and equal", sample.keys, sample.equal)
    for example in sample.different:
        yield f"online store: the state of {view.name} is not that of its events: {example}; {rebuild}"


def _most_seen(project: Project, stores: Stores) -> dict[str, dict[int, int]]:
    """By view and source, up to where archived snapshots had seen its events."""
    most: dict[str, dict[int, int]] = {}
    snapshots = [scene.config.in_scene("snapshots") for scene in project.scenes]
    for file in (file for name in snapshots for file in stores.registry.files(name)):
        try:
            with stores.offline.open(file.path) as parquet:
                names = set(parquet.schema_arrow.names)
                columns = {v: seen_column(v) for v in project.stream_views if seen_column(v) in names}
                rows = parquet.read(columns=list(columns.values()))
        except StoreError:
            continue  # the archive's own check says so
        for view, column in columns.items():
            found = most.setdefault(view, {})
            for source, offset in enumerate(_greatest(rows.column(column)).tolist()):
                found[source] = max(found.get(source, 0), offset)
    return most


def _greatest(lists: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The greatest number at each place of lists of offsets."""
    there = lists.drop_null().combine_chunks()
    lengths = pc.list_value_length(there).to_numpy(zero_copy_only=False).astype(np.int64)
    places = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    most = np.zeros(int(lengths.max(initial=0)), dtype=np.int64)
    np.maximum.at(most, places, np.asarray(pc.list_flatten(there).fill_null(0).to_numpy(zero_copy_only=False)))
    return most


def _labels(project: Project, stores: Stores) -> Iterator[str]:
    """Samples are made of what the label store has released: it knows of a position where some are archived."""
    for target in project.config.labels.every_target():
        released = released_positions(project, stores, target)
        dataset = samples_dataset(target, project.config.scene)
        for file in stores.registry.files(dataset):
            try:
                sources = pc.unique(stores.offline.read(file.path, ["_source_partition"]).column(0)).to_pylist()
            except StoreError:
                continue  # the archive's own check says so
            missing = [source for source in sources if source < LANE and (0, source) not in released]
            if missing:
                yield (
                    f"label store: {dataset} of snapshots[{missing[0]}] are archived, and it has not begun with them: "
                    f"it was deleted; {_AGAIN}, labels, requests and snapshots alike; if not, restore it from a copy"
                )
                break


def _models(project: Project, stores: Stores) -> Iterator[str]:
    """Requests were scored by a version of this model: some version is there. The newest can be read."""
    model = project.config.model
    newest = 0
    for file in stores.registry.files(project.config.in_scene("snapshots")):
        try:
            with stores.offline.open(file.path) as parquet:
                if "model_version" in parquet.schema_arrow.names:
                    newest = max([newest, *parquet.read(columns=["model_version"]).column(0).drop_null().to_pylist()])
        except StoreError:
            continue
    if versions := stores.models.versions():
        try:
            stores.models.load(versions[-1])
        except ModelError as error:
            yield (
                f"models: version {versions[-1]:,} cannot be read: {error}; restore the folder from a copy, or serve "
                "an older one by `dovetail model rollback`"
            )
    elif newest and model is not None and stores.registry.newest_metrics(model.name, "total", 1):
        # Of another name it may have been: a model that was laid down under a new one has published nothing yet.
        yield (
            f"models: requests were scored by version {newest:,}, and {stores.models.path} has none: restore the "
            f"folder from a copy; or stop the workers, move {stores.checkpoints} away, too, and start one, which "
            "learns the samples again, if the broker still has them"
        )
