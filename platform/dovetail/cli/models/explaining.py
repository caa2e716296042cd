"""``dovetail model explain`` and ``collisions``: from slots back to names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from dovetail.app.modelling import encoder_of
from dovetail.cli.models.samples import find_model, find_samples, project_config
from dovetail.cli.output import print_json
from dovetail.platform.errors import ConfigError
from dovetail.trainer.models.contributions import collisions, explain
from dovetail.trainer.models.scorer import predict_with

__all__ = ["explain_row", "report_collisions"]


def explain_row(
    project: Path, name: str | None, samples: Sequence[str], *, row: int, format_: str, as_json: bool
) -> int:
    """What a model makes of one sample: its inputs by name, with slots, weights and contributions to the margin."""
    config = project_config(project)
    directory, version, model, encoder = find_model(config, name)
    found = find_samples(config, samples, format_=format_, first=None, last=None)
    sample = _row(found.tables(), row)
    weights = model.dense()
    inputs = explain(encoder, weights, sample, model.moments).drop_columns(["row"]).to_pylist()
    prediction = float(predict_with(encoder, weights, model.moments, sample)[0])
    margin = sum(each["contribution"] for each in inputs)
    if as_json:
        print_json({"version": version, "row": row, "prediction": prediction, "margin": margin, "inputs": inputs})
        return 0
    table = Table(title=f"{directory.path}, version {version}: row {row}")
    for column in ("input", "value", "slot", "x", "weight", "contribution"):
        table.add_column(column, justify="left" if column in ("input", "value") else "right")
    for each in inputs:
        value = "NULL" if each["value"] is None else each["value"]
        numbers = [f"{each[what]:.4g}" for what in ("x", "weight")]
        table.add_row(each["input"], value, str(each["slot"]), *numbers, f"{each['contribution']:+.4f}")
    console = Console()
    console.print(table)
    console.print(f"margin {margin:+.4f}, prediction {prediction:.4f}", highlight=False)
    return 0


def report_collisions(
    project: Path, name: str | None, samples: Sequence[str], *, rows: int, format_: str, as_json: bool
) -> int:
    """How many values of the samples share a slot, by input."""
    config = project_config(project)
    found = find_samples(config, samples, format_=format_, first=None, last=None)
    if name is None and config is not None and config.model is not None and found.inputs is None:
        # What is declared can be looked at before anything is trained.
        encoder = encoder_of(config.model)
    else:
        _, _, _, encoder = find_model(config, name)
    table = _first(found.tables(), rows)
    report = collisions(encoder, table).to_pylist()
    if as_json:
        print_json({"bits": encoder.bits, "rows": table.num_rows, "inputs": report})
        return 0
    shown = Table(title=f"{table.num_rows:,} samples, 2^{encoder.bits} slots")
    for column in ("input", "kind", "values", "slots", "colliding", "share"):
        shown.add_column(column, justify="left" if column in ("input", "kind") else "right")
    for each in report:
        counts = [f"{each[what]:,}" for what in ("values", "slots", "colliding")]
        shown.add_row(each["input"], each["kind"], *counts, f"{each['share']:.1%}")
    Console().print(shown)
    return 0


def _row(tables: Iterable[pa.Table], row: int) -> pa.Table:
    before = 0
    for table in tables:
        if 0 <= row - before < table.num_rows:
            return table.slice(row - before, 1)
        before += table.num_rows
    raise ConfigError(f"--row {row}: the samples have the rows 0 to {before - 1}; name one of them")


def _first(tables: Iterable[pa.Table], rows: int) -> pa.Table:
    taken: list[pa.Table] = []
    left = rows
    for table in tables:
        taken.append(table.slice(0, left))
        left -= taken[-1].num_rows
        if left <= 0:
            break
    if rows < 1 or left == rows:
        raise ConfigError(f"--rows {rows}: there is no sample to look at")
    return pa.concat_tables(taken, promote_options="permissive")
