"""Samples and models as the command line names them: files, folders, the archive; ``DIR`` or ``DIR@VERSION``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.app import open_stores
from dovetail.platform.config import Config, ModelConfig
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.modelling import encoder_of
from dovetail.trainer.encoding import Encoder, InputSpec
from dovetail.trainer.importing import FEATURES, read_libsvm, read_parquet, read_vw
from dovetail.trainer.publish import Model, ModelDirectory

__all__ = ["FORMATS", "Samples", "find_model", "find_samples", "model_of"]

#: How samples may be written.
FORMATS = ("parquet", "libsvm", "vw")


@dataclass(frozen=True, slots=True)
class Samples:
    """Stored samples, read anew by every call of ``tables``."""

    tables: Callable[[], Iterable[pa.Table]]
    #: The inputs they have, when the format decides them.
    inputs: Sequence[InputSpec] | None = None


def find_samples(
    config: Config | None, paths: Sequence[Path], *, format_: str, first: str | None, last: str | None
) -> Samples:
    """The samples in ``paths``, or, without any, those that the project has archived.

    ``first`` and ``last`` are days (``YYYY-MM-DD``) of ``request_time``, both included.

    Raises:
        ConfigError: an unknown format, a day that is none, or neither paths nor a project.
        WireError: a file cannot be read, or has no ``request_time`` to choose days by.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"--format: there is no format {format_!r}; choose from {', '.join(FORMATS)}")
    days = _day("--from-day", first), _day("--to-day", last)
    if format_ != "parquet":
        if not paths or any(days):
            raise ConfigError(f"--format {format_} needs files, and text has no days to choose from")
        read = read_libsvm if format_ == "libsvm" else read_vw
        tables = [table for path in paths for table in read(path)]
        longest = max(
            (pc.max(pc.list_value_length(table.column(FEATURES))).as_py() or 0 for table in tables), default=0
        )
        return Samples(lambda: tables, [InputSpec(FEATURES, "list", length=max(1, min(longest, 1024)))])
    if not paths and config is None:
        raise ConfigError("no samples: name files or folders, or run in a project whose worker has archived some")
    if not paths:
        paths = _archived(config)

    def chosen() -> Iterator[pa.Table]:
        for table in read_parquet(list(paths)):
            yield _between(table, *days)

    return Samples(chosen)


def _archived(config: Config | None) -> list[Path]:
    stores = open_stores(config) if config is not None else None
    if stores is None:
        return []
    try:
        files = [Path(stores.offline.path(file.path)) for file in stores.registry.files("samples")]
    finally:
        stores.close()
    if not files:
        raise ConfigError("the project has no archived samples yet; run its worker, or name Parquet files")
    return files


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
    kept = np.ones(len(times), np.bool_)
    epoch, day = date(1970, 1, 1), 86_400_000_000
    if first is not None:
        kept &= times >= (first - epoch).days * day
    if last is not None:
        kept &= times < (last + timedelta(days=1) - epoch).days * day
    return table.filter(pa.array(kept))


def model_of(config: Config | None) -> ModelConfig:
    """The project's model.

    Raises:
        ConfigError: there is no project, or it has none.
    """
    if config is None or config.model is None:
        raise ConfigError("there is no [model] section here; run in a project, or name one with --project")
    return config.model


def find_model(config: Config | None, name: str | None) -> tuple[ModelDirectory, int, Model, Encoder]:
    """``DIR``, ``DIR@VERSION``, ``@VERSION`` or nothing: the newest or that version, of DIR or of the project's model.

    Raises:
        ConfigError: the version is no number, or there is neither a folder nor a project.
        ModelError: there is no such model, or it does not say how its inputs are encoded.
    """
    folder, _, text = (name or "").partition("@")
    if text and not text.isdecimal():
        raise ConfigError(f"{name}: the version after @ must be a number")
    if folder and not Path(folder).is_dir():
        raise ModelError(f"{folder}: there is no such model directory")
    path = Path(folder) if folder else _project_models(config)
    directory = ModelDirectory(path)
    version = int(text) if text else directory.latest()
    if version == 0:
        raise ModelError(f"{path}: no model is published there yet")
    model = directory.load(version)
    if model.encoder is not None:
        return directory, version, model, Encoder.from_description(model.encoder)
    encoder = encoder_of(model_of(config))
    if encoder.fingerprint != model.fingerprint:
        raise ModelError(f"{path}, version {version}: trained with other inputs than the project's model has")
    return directory, version, model, encoder


def _project_models(config: Config | None) -> Path:
    model = model_of(config)
    return config.path(config.storage.state) / "models" / model.name if config is not None else Path()
