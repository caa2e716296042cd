"""``dovetail join``: samples from the archives, and whether the stream made the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.datasets import samples_dataset
from dovetail.app.jobs import cluster_of
from dovetail.app.openlineage.emitting import lineage_run
from dovetail.app.openlineage.named_datasets import archived_datasets, dataset_at
from dovetail.app.reports import JoinedDays, difference, join_archived
from dovetail.app.storage import Stores, open_stores
from dovetail.app.worker import features_of
from dovetail.cli.output import print_json, terminal
from dovetail.features import Project, load
from dovetail.platform.archive.joined_days import draft_day, joined_name, keep_days
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry

__all__ = ["run"]


def run(
    project: Path,
    out: str | None,
    target: str,
    *,
    compare: bool,
    as_json: bool,
    engine: str | None = None,
    master: str | None = None,
    scene: str = "",
) -> int:
    """Join, write by request day, compare; 1 when compared and different.

    ``engine`` and ``master`` instead of those of ``[batch]``.
    """
    loaded = load(project).scene(scene)
    config = loaded.config
    stores = open_stores(loaded.config)
    name = None if out is None else joined_name(out)
    try:
        read = [config.in_scene("snapshots"), *config.labels.streams]
        inputs = archived_datasets(stores.offline, read)
        with (
            cluster_of(config.batch, engine, master) as cluster,
            lineage_run(config, f"join.{samples_dataset(target, config.scene)}", "JOIN", inputs) as told,
        ):
            if cluster is None:
                joined = _here(loaded, stores, name, target, compare=compare)
            else:
                from dovetail.app.reports.join_on_cluster import join_on_cluster

                joined = join_on_cluster(loaded, stores, cluster, target=target, out=name, compare=compare)
            if out is not None:
                told.outputs.append(dataset_at(out, joined.columns, joined.rows))
    finally:
        stores.close()
    compared = joined.compared
    verdict = compared is None or compared.equal
    if as_json:
        against = None if compared is None else {**compared._asdict(), "equal": compared.equal}
        print_json({"samples": joined.rows, "files": joined.files, "compared": against})
        return 0 if verdict else 1
    console = terminal()
    console.print(
        f"{joined.rows:,} samples" + (f" in {len(joined.files)} files below {out}" if out is not None else "")
    )
    if compared is not None:
        what = "the same as" if compared.equal else "NOT the same as"
        console.print(
            f"{what} the stream's: {compared.compared:,} compared, {compared.only_batch:,} only here, "
            f"{compared.only_stream:,} only there, differing columns: {compared.columns or 'none'}"
        )
    return 0 if verdict else 1


def _here(project: Project, stores: Stores, out: str | None, target: str, *, compare: bool) -> JoinedDays:
    """The join in this process."""
    samples = join_archived(project, stores, features_of(project, stores), target=target)
    files = _write(samples, stores.registry, out) if out is not None else []
    compared = difference(stores, samples, target=target, scene=project.config.scene) if compare else None
    return JoinedDays(samples.num_rows, samples.schema, files, compared)


def _write(samples: pa.Table, registry: Registry, out: str) -> list[str]:
    """One file per UTC day of the request; an earlier join's files are replaced."""
    store, drafts = OfflineStore(out), []
    if samples.num_rows:
        days = samples.column("request_time").cast(pa.date32())
        for day in sorted(pc.unique(days).to_pylist()):
            mine = samples.filter(pc.equal(days, pa.scalar(day, pa.date32())))
            drafts.append(draft_day(store, str(day), samples.schema, [mine]))
    return keep_days(registry, out, drafts)
