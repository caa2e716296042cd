"""``dovetail model explain`` and ``collisions``: from slots back to names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from dovetail.app.modelling import encoder_of
from dovetail.cli.listing import Column, Listing
from dovetail.cli.models.samples import find_model, find_samples, project_config
from dovetail.cli.output import print_json, terminal
from dovetail.platform.errors import ConfigError
from dovetail.trainer.models.contributions import collisions, explain
from dovetail.trainer.models.scorer import predict_with

__all__ = ["explain_row", "report_collisions"]


def explain_row(
    project: Path, name: str | None, samples: Sequence[str], *, row: int, format_: str, as_json: bool
) -> int:
    """Explain a prediction: the sample's inputs by name, with slots, weights and contributions to the margin."""
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
    measures = ("slot", "x", "weight", "contribution")
    columns = [Column("input", "prose"), Column("value", "prose"), *(Column(name, "number") for name in measures)]
    table = Listing(f"{directory.path}, version {version}: row {row}", columns)
    for each in inputs:
        value = "NULL" if each["value"] is None else each["value"]
        numbers = [f"{each[what]:.4g}" for what in ("x", "weight")]
        table.add(each["input"], value, str(each["slot"]), *numbers, f"{each['contribution']:+.4f}")
    console = terminal()
    table.print(console)
    console.print(f"margin {margin:+.4f}, prediction {prediction:.4f}")
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
    numbers = ("values", "slots", "colliding", "share")
    columns = [Column("input", "prose"), Column("kind"), *(Column(name, "number") for name in numbers)]
    shown = Listing(f"{table.num_rows:,} samples, 2^{encoder.bits} slots", columns)
    for each in report:
        counts = [f"{each[what]:,}" for what in ("values", "slots", "colliding")]
        shown.add(each["input"], each["kind"], *counts, f"{each['share']:.1%}")
    shown.print(terminal())
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
