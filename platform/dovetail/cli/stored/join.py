"""``dovetail join``: samples from the archives, and whether the stream made the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.app.datasets import samples_dataset
from dovetail.app.openlineage.emitting import lineage_run
from dovetail.app.openlineage.named_datasets import archived_datasets, dataset_at
from dovetail.app.reports import difference, join_archived
from dovetail.app.storage import open_stores
from dovetail.app.worker import features_of
from dovetail.cli.output import print_json, terminal
from dovetail.features import load

__all__ = ["run"]


def run(project: Path, out: Path | None, target: str, *, compare: bool, as_json: bool) -> int:
    """Join, write by request day, compare; 1 when compared and different."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    try:
        read = ["snapshots", *loaded.config.labels.streams]
        inputs = archived_datasets(stores.offline, read)
        with lineage_run(loaded.config, f"join.{samples_dataset(target)}", "JOIN", inputs) as told:
            samples = join_archived(loaded, stores, features_of(loaded, stores), target=target)
            files = _write(samples, out) if out is not None and samples.num_rows else []
            if out is not None:
                told.outputs.append(dataset_at(str(out), samples.schema, samples.num_rows))
        compared = difference(stores, samples, target=target) if compare else None
    finally:
        stores.close()
    verdict = compared is None or compared.equal
    if as_json:
        against = None if compared is None else {**compared._asdict(), "equal": compared.equal}
        print_json({"samples": samples.num_rows, "files": [str(file) for file in files], "compared": against})
        return 0 if verdict else 1
    console = terminal()
    console.print(f"{samples.num_rows:,} samples" + (f" in {len(files)} files below {out}" if out is not None else ""))
    if compared is not None:
        what = "the same as" if compared.equal else "NOT the same as"
        console.print(
            f"{what} the stream's: {compared.compared:,} compared, {compared.only_batch:,} only here, "
            f"{compared.only_stream:,} only there, differing columns: {compared.columns or 'none'}"
        )
    return 0 if verdict else 1


def _write(samples: pa.Table, out: Path) -> list[Path]:
    """One file per UTC day of the request; an earlier join's file of that day is replaced."""
    days = samples.column("request_time").cast(pa.date32())
    files = []
    for day in pc.unique(days).to_pylist():
        file = out / f"day={day}" / "samples.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        pq.write_table(samples.filter(pc.equal(days, pa.scalar(day, pa.date32()))), partial, compression="zstd")
        partial.rename(file)
        files.append(file)
    return files
