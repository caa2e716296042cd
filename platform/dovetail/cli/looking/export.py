"""``dovetail export``: archived samples as Parquet, libsvm or TFRecord, a file a day."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple, cast, get_args

from dovetail.cli.output import print_json, terminal
from dovetail.features import load
from dovetail.platform.errors import ConfigError
from dovetail.samples.day_exports import ExportedDay, Form, SampleExport, export_samples
from dovetail.samples.tensors import Columns, Sequences

__all__ = ["Asked", "run"]


class Asked(NamedTuple):
    """The arguments of ``dovetail export``."""

    form: str
    target: str
    from_day: str | None
    to_day: str | None
    where: str | None
    columns: str
    dense: str
    sparse: str
    sequences: list[str]
    label: str
    bits: int
    per_request: bool = False


def run(project: Path, out: Path, asked: Asked, *, as_json: bool, scene: str = "") -> int:
    """Export, and say so day by day."""
    console = terminal()

    def say(day: ExportedDay, number: int, of: int) -> None:
        if not as_json:
            state = "" if day.fresh else ", there already"
            console.print(f"{day.day}: {day.rows:,} samples{state} ({number} of {of} days)", highlight=False)

    done = export_samples(load(project).scene(scene), _export(asked), out, on_day=say)
    rows, fresh = sum(day.rows for day in done), sum(day.fresh for day in done)
    if as_json:
        days = [
            {"day": day.day, "rows": day.rows, "path": day.path and str(day.path), "new": day.fresh} for day in done
        ]
        print_json({"rows": rows, "days": days})
    else:
        console.print(f"{rows:,} samples of {len(done)} days in {out}, {fresh} of them written now", highlight=False)
    return 0


def _export(asked: Asked) -> SampleExport:
    if asked.form not in get_args(Form):
        raise ConfigError(f"--format {asked.form!r}: choose from {', '.join(get_args(Form))}")
    made = bool(asked.dense or asked.sparse or asked.sequences)
    if asked.form == "parquet" and made:
        raise ConfigError("--dense, --sparse and --sequence are for libsvm and tfrecord; name --columns for Parquet")
    if asked.form != "parquet" and asked.per_request:
        raise ConfigError(f"--per-request is for Parquet; of {asked.form}, a record is one sample")
    if asked.form != "parquet" and (asked.columns or not made):
        raise ConfigError(f"--format {asked.form}: say by --dense, --sparse or --sequence what becomes of which column")
    labels = _names(asked.label)
    columns = Columns(
        dense=_names(asked.dense),
        sparse=_names(asked.sparse),
        sequences=[_sequence(text) for text in asked.sequences],
        label=labels[0] if len(labels) == 1 else labels,
        bits=asked.bits,
    )
    days = None
    if asked.from_day is not None or asked.to_day is not None:
        days = _day("--from-day", asked.from_day, "0001-01-01"), _day("--to-day", asked.to_day, "9999-12-31")
    return SampleExport(
        cast("Form", asked.form),
        asked.target,
        days,
        asked.where,
        tuple(_names(asked.columns)),
        columns,
        asked.per_request,
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sequence(text: str) -> Sequences:
    name, colon, length = text.partition(":")
    if colon and not length.isdecimal():
        raise ConfigError(f"--sequence {text!r}: write COLUMN, or COLUMN:LENGTH with a number")
    return Sequences(name, int(length) if colon else None)


def _day(option: str, text: str | None, otherwise: str) -> str:
    try:
        return date.fromisoformat(text or otherwise).isoformat()
    except ValueError:
        raise ConfigError(f"{option} {text!r}: write a day like 2024-03-01") from None
