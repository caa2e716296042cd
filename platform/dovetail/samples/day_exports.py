"""Archived samples as files for other trainers, a file a day: whole or not there, and gone on with after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.datasets import samples_dataset
from dovetail.app.storage import resolved
from dovetail.features import Project
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.duck.condition import Condition
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.shared import share
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.samples.exports import write_libsvm, write_tfrecord
from dovetail.samples.reader import Reader
from dovetail.samples.tensors import Columns

__all__ = ["ExportedDay", "Form", "SampleExport", "export_samples"]

#: The form of the files.
Form = Literal["parquet", "libsvm", "tfrecord"]
_ENDINGS: dict[Form, str] = {"parquet": "parquet", "libsvm": "svm", "tfrecord": "tfrecord"}
_MANIFEST = "_export.json"


@dataclass(frozen=True, slots=True)
class SampleExport:
    """An export of samples: those of a target, of some days (first and last), for which a condition in SQL holds.

    ``names``: of Parquet, the columns; all if empty. ``columns``: of libsvm and TFRecord, what becomes of which column.
    ``per_request``: in Parquet, a list ``x`` that the candidates of a request share is the column ``_shared.x``, which
    has it in the first of the rows that share it and NULL in the others; ``_shared_back`` says how many rows before
    each row that one stands.
    """

    form: Form = "parquet"
    target: str = ""
    days: tuple[str, str] | None = None
    where: str | None = None
    names: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
    per_request: bool = False

    def describe(self) -> dict[str, Any]:
        """All but the days, as JSON can say it: files of one folder are of one export."""
        made: dict[str, Any] = (
            {"names": list(self.names)} if self.form == "parquet" else {"columns": repr(self.columns)}
        )
        made |= {"per_request": True} if self.per_request else {}
        return {"form": self.form, "target": self.target, "where": self.where, **made}


@dataclass(frozen=True, slots=True)
class ExportedDay:
    """A day that is in its file: ``rows`` of it; ``fresh`` when it was written now, and not before."""

    day: str
    path: Path | None
    rows: int
    fresh: bool


def export_samples(
    project: Project, export: SampleExport, out: Path, *, on_day: Callable[[ExportedDay, int, int], None] | None = None
) -> list[ExportedDay]:
    """Write the archived samples to ``out``, a file for each day of ``request_time`` that has any.

    A file appears when it is whole. The folder knows what it was made of: the same export again, after a stop or when
    more was archived, writes the days that are missing or have changed, and no others. ``on_day(day, number, of)`` is
    told of each.

    Raises:
        ConfigError: the folder has another export, or another scene's, or a column, condition, day or target is none.
    """
    log = _archived(project, export.target)
    first, last = export.days or ("", "9999-12-31")
    chosen = [day for day in log.days() if first <= day <= last]
    manifest = _Manifest(out, export, project.config.scene)
    done: list[ExportedDay] = []
    for number, day in enumerate(chosen, start=1):
        low = day_start_us(day)
        source = log.identity(low, low + DAY_US - 1)
        found = manifest.known(day, source)
        if found is None:
            path = out / f"{day}.{_ENDINGS[export.form]}"
            rows = _write(project, export, day, path)
            manifest.note(day, source, rows)
            found = ExportedDay(day, path if rows else None, rows, fresh=True)
        done.append(found)
        if on_day is not None:
            on_day(found, number, len(chosen))
    return done


def _archived(project: Project, target: str) -> DayFiles:
    config = project.config
    if target not in (targets := config.labels.every_target()):
        known = ", ".join(name or "the primary one, ''" for name in targets)
        raise ConfigError(f"target {target!r} is not declared in [labels.targets]; there are {known}")
    registry = Registry(resolved(config, config.storage.url("registry")), config.name)
    offline = OfflineStore(resolved(config, config.storage.url("offline_store")))
    try:
        return DayFiles.archived(registry, offline, samples_dataset(target, config.scene), "request_time")
    finally:
        registry.close()


class _Manifest:
    """The file beside the exported ones that says what they are of; changed as a whole."""

    def __init__(self, out: Path, export: SampleExport, scene: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path, self._out, self._ending = out / _MANIFEST, out, _ENDINGS[export.form]
        asked = {"format": 1, **export.describe()} | ({"scene": scene} if scene else {})
        self._said: dict[str, Any] = {"export": asked, "days": {}}
        if self._path.is_file():
            said = json.loads(self._path.read_text(encoding="utf-8"))
            if said["export"] != asked:
                differs = sorted(
                    name for name in {*asked, "per_request", "scene"} if said["export"].get(name) != asked.get(name)
                )
                raise ConfigError(
                    f"{out} has an export with another {', '.join(differs) or 'form'}: give a folder of its own"
                )
            self._said = said
        for draft in out.glob("*.partial"):  # of a process that ended
            draft.unlink()

    def known(self, day: str, source: str) -> ExportedDay | None:
        """The day as it is in its file, if that is of the samples there are."""
        found = self._said["days"].get(day)
        if found is None or found["source"] != source:
            return None
        path = self._out / f"{day}.{self._ending}"
        if found["rows"] and not path.is_file():
            return None
        return ExportedDay(day, path if found["rows"] else None, found["rows"], fresh=False)

    def note(self, day: str, source: str, rows: int) -> None:
        """The day's file is there."""
        self._said["days"][day] = {"source": source, "rows": rows}
        draft = self._path.with_suffix(".json.partial")
        draft.write_text(json.dumps(self._said, indent=1, sort_keys=True), encoding="utf-8")
        draft.replace(self._path)


def _write(project: Project, export: SampleExport, day: str, path: Path) -> int:
    """Write a day's file, or remove an old one where there are no rows any more; returns how many it has."""
    draft = path.with_name(path.name + ".partial")
    if export.form == "parquet":
        rows = _write_parquet(lambda: _batches(project, export, day), draft)
    else:
        write = write_libsvm if export.form == "libsvm" else write_tfrecord
        rows = write(_batches(project, export, day), export.columns, draft)
    if rows == 0:
        draft.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return 0
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    return rows


def _batches(project: Project, export: SampleExport, day: str) -> Iterator[pa.Table]:
    wanted = export.names if export.form == "parquet" else export.columns.read
    condition = None if export.where is None else Condition(export.where)
    # A condition may name any column; without one, what is not wanted is not read.
    read = wanted if condition is None else ()
    if export.per_request and export.form != "parquet":
        raise ConfigError(f"{export.form} has a record for each sample: per_request is for Parquet")
    with Reader(
        project, target=export.target, days=(day, day), columns=read, topic=False, per_request=export.per_request
    ) as reader:
        for batch in reader:
            rows = batch if condition is None else condition.choose(batch)
            if missing := [name for name in wanted if name not in rows.column_names]:
                raise ConfigError(
                    f"there is no column {missing[0]!r} in samples; there are {', '.join(rows.column_names)}"
                )
            if rows.num_rows:
                yield share(rows.select(list(wanted)) if wanted else rows)


def _write_parquet(batches: Callable[[], Iterator[pa.Table]], path: Path) -> int:
    """Write batches as one file of the widest schema among them; begins again where that shows late."""
    schema: pa.Schema | None = None
    while True:
        rows, wider = 0, schema
        writer: pq.ParquetWriter | None = None
        try:
            for batch in batches():
                wider = batch.schema if wider is None else _widest(wider, batch.schema)
                if schema is None:
                    schema = wider
                if not wider.equals(schema):
                    break
                writer = writer or pq.ParquetWriter(path, schema, compression="zstd")
                empty = [schema.empty_table(), batch]
                writer.write_table(
                    pa.concat_tables(empty, promote_options="permissive").select(schema.names).cast(schema)
                )
                rows += batch.num_rows
        finally:
            if writer is not None:
                writer.close()
        if wider is None or wider.equals(schema):
            return rows
        schema = wider


def _widest(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    return pa.unify_schemas([one, other.remove_metadata()], promote_options="permissive")
