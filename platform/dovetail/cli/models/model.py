"""``dovetail model``: what is published, what it holds, which version serves, and how two of them compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.app.looking.shadow_scores import measured_beside, scored_twice
from dovetail.app.reports.archived import archived_snapshots
from dovetail.app.storage import open_stores, resolved
from dovetail.app.trainer_stage import sharding_of
from dovetail.cli.listing import Column, Listing
from dovetail.cli.models.evaluate import evaluate_model
from dovetail.cli.models.report import metrics_dict, print_metrics
from dovetail.cli.models.samples import find_model, label_of, model_of, project_config
from dovetail.cli.models.succession import checkpoints_of
from dovetail.cli.output import print_json, terminal
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError, LogLocked, ModelError
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.trainer.metrics.charts import Chart, reliability
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.plots import write_plots
from dovetail.trainer.models.exporting import export_model
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.stages.resharding import reshard as resharded

__all__ = ["compare", "compare_live", "export", "list_models", "reshard", "rollback", "shadow", "show"]


def list_models(project: Path, name: str | None, *, as_json: bool) -> int:
    """Versions, how they are stored, and which serve; candidates refused, and why."""
    directory, latest, _, _ = find_model(project_config(project), name)
    fulls, pinned, candidate = set(directory.fulls()), directory.pinned, directory.shadow
    rows: list[dict[str, Any]] = []
    for version in directory.versions():
        full = version in fulls
        stored = directory.load_full(version) if full else directory.load_delta(version)
        rows.append(
            {
                "version": version, "kind": "full" if full else "delta", "trained": stored.trained,
                "weights": len(stored.slots), "serves": version == (pinned or latest), "pinned": version == pinned,
                "shadow": version == candidate, "refused": None,
            }
        )  # fmt: skip
    rows += [{"version": version, "kind": "refused", "refused": why} for version, why in directory.refused().items()]
    rows.sort(key=lambda row: row["version"])
    if as_json:
        print_json(rows)
        return 0
    columns = [
        Column("version", "number"), Column("kind"), Column("trained", "number"), Column("weights", "number"),
        Column("notes", "prose"),
    ]  # fmt: skip
    table = Listing(str(directory.path), columns)
    for row in rows:
        if row["kind"] == "refused":
            table.add(str(row["version"]), "refused", "", "", "; ".join(row["refused"]))
            continue
        notes = [what for what in ("serves", "pinned", "shadow") if row[what]]
        table.add(str(row["version"]), row["kind"], f"{row['trained']:,}", f"{row['weights']:,}", ", ".join(notes))
    table.print(terminal())
    return 0


def show(project: Path, name: str | None, *, as_json: bool) -> int:
    """One version: its inputs, its weights, and the metrics it had when it was published."""
    config = project_config(project)
    directory, version, model, encoder = find_model(config, name)
    metrics: list[dict[str, Any]] = []
    rankings: list[dict[str, Any]] = []
    if config is not None and config.model is not None:
        stores = open_stores(config)
        try:
            rows = stores.registry.metrics(config.model.name)
            metrics = [row._asdict() for row in rows if row.trained in (0, model.trained)]
            ranked = stores.registry.rankings(config.model.name)
            rankings = [row._asdict() for row in ranked if row.trained in (0, model.trained)]
        finally:
            stores.close()
    weights = model.weights.astype(np.float64)
    answer = {
        "version": version, "path": str(directory.path), "trained": model.trained, "bits": model.bits,
        "fingerprint": model.fingerprint, "loss": encoder.loss, "weights": len(weights),
        "largest_weight": float(np.abs(weights).max(initial=0.0)), "l2_norm": float(np.sqrt((weights**2).sum())),
        "inputs": [spec.describe() for spec in encoder.inputs], "moments": model.moments.tolist(), "metrics": metrics,
        "rankings": rankings,
    }  # fmt: skip
    if as_json:
        print_json(answer)
        return 0
    console = terminal()
    for key, value in answer.items():
        if key not in ("inputs", "moments", "metrics", "rankings"):
            console.print(f"{key:<15} {value}")
    console.print("inputs          " + ", ".join(f"{spec.name} ({spec.kind})" for spec in encoder.inputs))
    for row in metrics:
        if row["rmse"] is None:
            console.print(f"{row['scope']:<32} log-loss {row['log_loss']}, AUC {row['auc']}")
        else:
            console.print(f"{row['scope']:<32} RMSE {row['rmse']}, MAE {row['mae']}")
    for row in rankings:
        console.print(f"{row['scope']:<32} GAUC {row['gauc']}, NDCG@{row['at']} {row['ndcg']}, MRR {row['mrr']}")
    return 0


def export(project: Path, name: str | None, out: Path, format_: str, *, as_json: bool) -> int:
    """Write the non-zero weights."""
    _, version, model, _ = find_model(project_config(project), name)
    count = export_model(model, version, out, format_)
    if as_json:
        print_json({"version": version, "weights": count, "path": str(out), "format": format_})
    else:
        terminal().print(f"version {version}: {count:,} weights to {out}")
    return 0


def rollback(project: Path, name: str | None, *, release: bool, as_json: bool) -> int:
    """Serve a named version, or the newest again."""
    directory, version, _, _ = find_model(project_config(project), name)
    if not release and "@" not in (name or ""):
        raise ConfigError("which version? write DIR@VERSION or @VERSION, or --release to serve the newest again")
    directory.pin(None if release else version)
    serving = directory.latest() if release else version
    if as_json:
        print_json({"serving": serving, "pinned": not release})
    else:
        terminal().print(f"scorers take up version {serving} with their next request")
    return 0


def reshard(project: Path, *, as_json: bool) -> int:
    """Place the model that is kept as the configuration says now."""
    config = load_config(project)
    model, shards = model_of(config), config.trainer.shards
    if shards is None:
        raise ConfigError("[trainer] shards: say how many shards the model is to be on from now on")
    Ring(shards, model.bits)  # refuses more shards than there can be, before anything is read
    with _stopped(config):
        done = resharded(checkpoints_of(config), sharding_of(config, model).placement)
    if as_json:
        workers = {name: each.workers for name, each in (("workers_before", done.before), ("workers", done.after))}
        told = {"before": done.before.shards, "after": done.after.shards, "moved": done.moved, **workers}
        print_json({**told, "taken_back": done.taken_back.shards if done.taken_back else 0})
    elif done.before == done.after:
        if done.taken_back:
            terminal().print(f"a change to {done.taken_back} was interrupted; it is taken back")
        terminal().print(f"the model is on {done.after}")
    else:
        share = done.moved / (1 << model.bits)
        terminal().print(
            f"from {done.before} to {done.after}: {done.moved:,} slots have moved, {share:.0%}; start workers"
        )
    return 0


@contextmanager
def _stopped(config: Config) -> Iterator[None]:
    """Refuse while a worker runs, where that can be seen: an embedded log is open in it, and until the end in none."""
    scheme, _, place = resolved(config, config.storage.url("broker")).partition("://")
    if scheme != "embedded" or not Path(place).exists():
        yield
        return
    try:
        log = EmbeddedLog.open(place)
    except LogLocked as error:
        raise ConfigError(f"a worker of the project runs, and would go on with the shards it knows: {error}") from error
    with log:
        yield


def shadow(project: Path, name: str | None, *, off: bool, as_json: bool) -> int:
    """Score a version beside the serving one, or stop that."""
    directory, version, _, _ = find_model(project_config(project), name)
    directory.set_shadow(None if off else version)
    if as_json:
        print_json({"shadow": None if off else version})
    else:
        terminal().print("shadow scoring is off" if off else f"version {version} is scored beside the serving model")
    return 0


def compare(
    project: Path, names: Sequence[str], samples: Sequence[str], *, as_json: bool, plot: Path | None, format_: str
) -> int:
    """Two or more models on the same stored samples."""
    results = [evaluate_model(project, name, samples, format_=format_) for name in names]
    rows = [(f"{name} (version {r.version})", r.total) for name, r in zip(names, results, strict=True)]
    lines = [reliability(name, r.predictions, r.labels, r.weights) for (name, _), r in zip(rows, results, strict=True)]
    return _answer("the same samples", rows, [Chart("reliability", lines, diagonal=True)], as_json=as_json, plot=plot)


def compare_live(project: Path, *, as_json: bool, plot: Path | None) -> int:
    """The serving model against the shadow, on what both scored live and labels have come back for."""
    config = project_config(project, needed=True)
    if config is None:
        return 2
    stores = open_stores(config)
    try:
        snapshots = archived_snapshots(stores, shared=False)
        samples = read_dataset(stores.registry, stores.offline, "samples")
    finally:
        stores.close()
    label, absent = label_of(config)
    both = pa.table({})
    if "shadow_score" in snapshots.column_names and samples.num_rows:
        both = scored_twice(snapshots, samples.select(["request_id", "item_id", label, "weight"]))
    if both.num_rows == 0:
        raise ModelError(
            "no archived sample has a shadow score; set `shadow = true` in [model], choose a candidate with "
            "`dovetail model shadow @VERSION`, and let the worker serve and archive"
        )
    found = measured_beside(both, label, absent, model_of(config).loss)
    rows = [(each.role, each.metrics) for each in found]
    chart = Chart("reliability", [each.reliable for each in found], diagonal=True)
    return _answer("live requests", rows, [chart], as_json=as_json, plot=plot)


def _answer(
    what: str, rows: Sequence[tuple[str, Metrics]], charts: Sequence[Chart], *, as_json: bool, plot: Path | None
) -> int:
    if plot is not None:
        write_plots(plot, f"models compared on {what}", charts)
    if as_json:
        print_json({name: metrics_dict(metrics) for name, metrics in rows})
    else:
        print_metrics(terminal(), f"models compared on {what}", rows)
    return 0
