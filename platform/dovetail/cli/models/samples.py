"""Samples and models as the command line names them: files, folders, the archive; ``DIR`` or ``DIR@VERSION``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.modelling import encoder_of_stored
from dovetail.app.storage import open_stores
from dovetail.platform.archive.dayfiles import DAY_US, NEVER_US, DayFiles, day_start_us
from dovetail.platform.archive.joined_days import JOINED, joined_name, settle_joins
from dovetail.platform.config.load import Config, ModelConfig, load_config
from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.platform.rows.encodings.shared import Spreader
from dovetail.platform.stores.offline import OfflineStore
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.samples.importing import (
    FEATURES,
    read_libsvm,
    read_parquet,
    read_vw,
)
from dovetail.trainer.samples.label_columns import Absent

__all__ = [
    "FORMATS",
    "Samples",
    "archived_days",
    "find_model",
    "find_samples",
    "label_of",
    "microseconds_of",
    "model_of",
    "project_config",
]

#: How samples may be written.
FORMATS = ("parquet", "libsvm", "vw")


def project_config(project: Path, *, needed: bool = False, scene: str = "") -> Config | None:
    """The project's configuration, as the ``scene`` has it; None where there is none and none is needed.

    Raises:
        ConfigError: it is wrong, needed and absent, or has no such scene.
    """
    file = project / "dovetail.toml" if project.is_dir() else project
    return load_config(project).of_scene(scene) if needed or scene or file.exists() else None


@dataclass(frozen=True, slots=True)
class Samples:
    """Stored samples, read anew by every call of ``tables``.

    ``parts`` give the same tables, part by part, each where it is called: they can be sent to other processes.
    """

    parts: Callable[[], Sequence[Callable[[], Iterable[pa.Table]]]]
    #: The inputs they have, when the format decides them.
    inputs: Sequence[InputSpec] | None = None
    #: The project's archive that they are in, and the last ``request_time`` that was chosen of it.
    archive: DayFiles | None = None
    until_us: int = NEVER_US

    def tables(self) -> Iterator[pa.Table]:
        """The samples, in order."""
        for part in self.parts():
            yield from part()


def label_of(config: Config | None) -> tuple[str, Absent]:
    """The column of samples that the project's model predicts, and what becomes of samples without; else ``label``."""
    model = config.model if config is not None else None
    return ("label", "refuse") if model is None else (model.label, model.absent_label or "refuse")


def find_samples(
    config: Config | None,
    names: Sequence[str],
    *,
    format_: str,
    first: str | None,
    last: str | None,
    newest: int | None = None,
) -> Samples:
    """The samples in the files, folders or fsspec URLs of ``names``, or, without any, those the project has archived.

    ``first`` and ``last`` are days (``YYYY-MM-DD``) of ``request_time``, both included; ``newest``, instead, so many
    days up to the last that is archived.

    Raises:
        ConfigError: an unknown format, a path that is not there, a day that is none, or neither paths nor a project.
        StoreError: a URL cannot be used, or an archived file is gone.

    Tables raise a ConfigError, too, when a file that was named cannot be read.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"--format: there is no format {format_!r}; choose from {', '.join(FORMATS)}")
    if gone := [name for name in names if "://" not in name and not Path(name).exists()]:
        raise ConfigError(f"{', '.join(gone)}: there is no such file or folder of samples")
    days = _days(first, last)
    if days[0] is not None and days[1] is not None and days[0] > days[1]:
        raise ConfigError(f"--from-day {first} is after --to-day {last}")
    if newest is not None and (names or any(days)):
        raise ConfigError("--last-days counts back from the end of the project's archive; give no files and no days")
    if format_ != "parquet":
        if not names or any(days):
            raise ConfigError(f"--format {format_} needs files, and text has no days to choose from")
        read = read_libsvm if format_ == "libsvm" else read_vw
        tables = [table for name in names for table in _as_argument(read, Path(name))]
        longest = max(
            (pc.max(pc.list_value_length(table.column(FEATURES))).as_py() or 0 for table in tables), default=0
        )
        parts: list[Callable[[], Iterable[pa.Table]]] = [partial(_as_argument, read, Path(name)) for name in names]
        return Samples(lambda: parts, [InputSpec(FEATURES, "list", length=max(1, min(longest, 1024)))])
    if names:
        for name in names:
            _settle(config, name)
        return Samples(lambda: [part for name in names for part in _named(name, *days)])
    if config is None:
        raise ConfigError("no samples: name files or folders, or run in a project whose worker has archived some")
    archived = archived_days(config)
    low_us, high_us = _microseconds(*days) if newest is None else _newest(archived, newest)
    files = [archived.alone(file) for file in archived.touching(low_us, high_us)]
    return Samples(
        lambda: [partial(file.read, None, low_us, high_us) for file in files], archive=archived, until_us=high_us
    )


def _newest(archived: DayFiles, days: int) -> tuple[int, int]:
    last_us = day_start_us(max(archived.days()))
    return last_us - (days - 1) * DAY_US, last_us + DAY_US - 1


def _named(name: str, first: date | None, last: date | None) -> Sequence[Callable[[], Iterable[pa.Table]]]:
    """A part for each file at a path or fsspec URL, a Parquet file or a folder of them."""
    if "://" not in name:
        path = Path(name)
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else []
        if path.is_dir() and not files:
            raise ConfigError(f"{name}: no Parquet file there; name a .parquet file or a folder that holds some")
        return [partial(_of_file, file.absolute(), first, last) for file in files or [path]]
    folder, _, leaf = name.rpartition("/")
    alone = leaf.endswith(".parquet")
    root = folder if alone else name
    found = [path for path, _ in OfflineStore(root).find() if not alone or path == leaf]
    if not found:
        raise ConfigError(f"{name}: no Parquet file there; name a .parquet file or a folder that holds some")
    return [partial(_of_url, root, path, first, last) for path in found]


def _settle(config: Config | None, name: str) -> None:
    """Put in place what a join that was ended on the way has left in the folder ``name``, where it has files of one."""
    if config is None or ("://" not in name and not any(Path(name).rglob(f"*{JOINED}*"))):
        return
    stores = open_stores(config)
    try:
        settle_joins(stores.registry, joined_name(name))
    finally:
        stores.close()


def _of_file(path: Path, first: date | None, last: date | None) -> Iterator[pa.Table]:
    for table in _as_argument(_read_one, path):
        yield _between(table, first, last)


def _read_one(path: Path) -> Iterator[pa.Table]:
    return read_parquet([path])


def _as_argument(read: Callable[[Path], Iterator[pa.Table]], path: Path) -> Iterator[pa.Table]:
    """Tables of a file that the command line names.

    Raises:
        ConfigError: it cannot be read as what ``--format`` says.
    """
    try:
        yield from read(path)
    except WireError as error:
        raise ConfigError(f"{error}; name another file, or say by --format what it is") from error


def _of_url(root: str, path: str, first: date | None, last: date | None) -> Iterator[pa.Table]:
    with OfflineStore(root).open(path) as file:
        spreader = Spreader()
        for batch in file.iter_batches(100_000):
            for table in spreader.parts(pa.table(batch)):
                yield _between(table, first, last)


def microseconds_of(first: str | None, last: str | None) -> tuple[int | None, int]:
    """The first and the last microsecond of a range of days as the command line has them, ``YYYY-MM-DD``.

    The first is None where it is open; the last is later than any time.

    Raises:
        ConfigError: a text is no day.
    """
    return _microseconds(*_days(first, last))


def archived_days(config: Config) -> DayFiles:
    """The archived samples, by ``request_time``.

    Raises:
        ConfigError: there are none.
    """
    stores = open_stores(config)
    try:
        found = DayFiles.archived(stores.registry, stores.offline, config.in_scene("samples"), "request_time")
    finally:
        stores.close()
    if not found.files:
        raise ConfigError("the project has no archived samples yet; run its worker, or name Parquet files")
    return found


def _days(first: str | None, last: str | None) -> tuple[date | None, date | None]:
    return _day("--from-day", first), _day("--to-day", last)


def _day(option: str, text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a day; write YYYY-MM-DD") from None


def _between(table: pa.Table, first: date | None, last: date | None) -> pa.Table:
    if first is None and last is None:
        return table
    if "request_time" not in table.column_names:
        raise ConfigError("--from-day and --to-day choose by request_time, which these samples do not have")
    times = table.column("request_time").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    low_us, high_us = _microseconds(first, last)
    return table.filter(pa.array((times <= high_us) & (low_us is None or times >= low_us)))


def _microseconds(first: date | None, last: date | None) -> tuple[int | None, int]:
    """The first and the last microsecond of a range of days; the first is None where it is open."""
    low_us = None if first is None else day_start_us(first.isoformat())
    return low_us, NEVER_US if last is None else day_start_us(last.isoformat()) + DAY_US - 1


def model_of(config: Config | None) -> ModelConfig:
    """The model of the project, or of the scene that the configuration is of.

    Raises:
        ConfigError: there is no project, or it has none.
    """
    if config is None or (config.model is None and not config.scene):
        raise ConfigError("there is no [model] section here; run in a project, or name one with --project")
    if config.model is None:
        raise ConfigError(f"{config.section('model')} is missing: the scene {config.scene} has no model; declare it")
    return config.model


def find_model(config: Config | None, name: str | None) -> tuple[ModelDirectory, int, Model, Encoder]:
    """``DIR``, ``DIR@VERSION``, ``@VERSION`` or nothing: the newest or that version, of DIR or of the project's model.

    Raises:
        ConfigError: the version is no number, there is neither a folder nor a project, no such model, or one that does
            not say how its inputs are encoded.
        ModelError: its file is damaged, or of another version of Dovetail.
    """
    folder, _, text = (name or "").partition("@")
    if text and not text.isdecimal():
        raise ConfigError(f"{name}: the version after @ must be a number")
    if folder and not Path(folder).is_dir():
        if (named := _folder_of(config, folder)) is not None:
            at = f"@{text}" if text else ""
            raise ConfigError(f"{folder}: a model is given by its folder; write {named}{at}")
        raise ConfigError(
            f"{folder}: there is no such folder of models; name one that was published into (train --out), or leave it "
            "out for the project's"
        )
    path = Path(folder) if folder else _project_models(config)
    directory = ModelDirectory(path)
    there = directory.versions()
    if not there:
        raise ConfigError(
            f"{path}: no model is published there yet; let the project's worker train, or `dovetail train --out {path}`"
        )
    version = int(text) if text else directory.latest()
    if version not in there:
        raise ConfigError(f"{path} has no version {version}; there are {', '.join(map(str, there))}")
    model = directory.load(version)
    try:
        encoder = encoder_of_stored(model, None if config is None else config.model)
    except ModelError as error:
        raise ConfigError(f"{path}, version {version}: {error}") from None
    return directory, version, model, encoder


def _project_models(config: Config | None) -> Path:
    model = model_of(config)
    return _models(config) / model.name if config is not None else Path()


def _models(config: Config) -> Path:
    return config.path(config.storage.state) / "models"


def _folder_of(config: Config | None, name: str) -> Path | None:
    """The folder of the model that is called ``name``, or of the scene that is; None where none is."""
    if config is None:
        return None
    found = [
        scene.model.name for scene in config.every_scene() if scene.model and name in (scene.model.name, scene.scene)
    ]
    return _models(config) / found[0] if found else None
