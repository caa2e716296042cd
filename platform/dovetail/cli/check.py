"""``dovetail check``: what the definitions are, and that they are right."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal
from dovetail.features import Project, load
from dovetail.features.plan.label_values import unread_columns
from dovetail.platform.config.load import Config
from dovetail.platform.config.served.experiments import running

__all__ = ["run", "run_diff"]


def run(project: Path, *, as_json: bool) -> int:
    """Load the project and show it; refusals are raised."""
    loaded = load(project)
    described = loaded.describe()
    if as_json:
        print_json(
            [
                {"name": d.name, "kind": d.kind, "file": d.file, "line": d.line, "entity": d.entity, **d.details}
                for d in described
            ]
        )
        return 0
    table = Listing(
        "definitions",
        [Column("name"), Column("kind"), Column("entity"), Column("where"), Column("keeps and computes", "prose")],
    )
    for d in described:
        if d.kind == "streaming":
            kept = [f"{d.details['raw_s']:g} s of rows, {d.details['partials']} partials"]
            kept += [f"of {c['of']}: {c['keeps']}" for c in d.details["collections"]]
            state = "; ".join(kept)
            streams = d.details["streams"]
            per = "per key" if len(streams) == 1 else f"per key, for each SELECT (of {', '.join(streams)}),"
            before = " strictly before the request" if d.details["strictly_before"] else ""
            what = f"{d.details['aggregates']} aggregates{before}; {per} {state}"
            if (states := d.details["states"]) > len(streams):
                what += f"; up to {states} such states per key, one per partition ([rekeyed.NAME] brings them together)"
        elif d.kind == "batch":
            what = f"a version every {d.details['every_s']:g} s from {', '.join(d.details['tables'])}"
        else:
            lanes = [column["lane"] for column in d.details["columns"]]
            what = f"{len(lanes)} columns: {lanes.count('compiled')} compiled, {lanes.count('duckdb')} in DuckDB"
        table.add(d.name, d.kind, ", ".join(d.entity), f"{d.file}:{d.line}", what)
    table.print(terminal())
    if loaded.config.scenes:
        _scenes(loaded).print(terminal())
    for d in described:
        for advice in d.details.get("advice", ()):
            print(f"warning: {advice}")
    for absent in _absent_models(loaded.config):
        print(f"warning: {absent}")
    for kind, stream in loaded.config.labels.streams.items():
        if unread := unread_columns(loaded.label_schemas[kind], [*stream.values, stream.event_id]):
            print(
                f"warning: labels of kind {kind}: {', '.join(unread)} reach no sample; to have them there, declare "
                f'[labels.streams.{kind}] values = {{ {unread[0]} = "last" }} (or "first", "sum", "min", "max")'
            )
    return 0


def _scenes(project: Project) -> Listing:
    """The scenes of a project, the one without a name first."""
    titles = ("scene", "requests", "feature set", "samples", "model")
    table = Listing("scenes", [Column(title) for title in titles])
    for scene in project.scenes:
        config = scene.config
        labels, model = config.labels, config.model.name if config.model is not None else "none"
        samples = ", ".join(policy.samples_topic for policy in labels.every_target().values())
        table.add(
            config.scene or "(without a name)",
            f"{config.request.topic}: {scene.request.name}",
            scene.feature_set.name,
            f"{samples}: {labels.policy} by {labels.positive}",
            model,
        )
    return table


def _absent_models(config: Config) -> Iterable[str]:
    if running(config.experiments) is None:
        return ()
    from dovetail.app.experiments.arm_scorers import absent_models  # models, which definitions alone do not need

    return absent_models(config)


def run_diff(project: Path, *, as_json: bool) -> int:
    """Show what is not as registered; 1 when a worker would refuse to start."""
    from dovetail.app.storage import open_stores, stores_of  # databases and models, which definitions alone do not need
    from dovetail.app.trainer_stage import checkpoint_refusal
    from dovetail.features.stored.registration import changes
    from dovetail.joiners.meanings.registered import label_changes

    loaded = load(project)
    stores = open_stores(loaded.config)
    try:
        found = changes(loaded, stores.registry, stores.online)
        labels = label_changes(loaded.config, loaded.label_schemas, stores.registry, stores.labels)
        refusals = {
            scene.config.model.name: refusal
            for scene in loaded.scenes
            if scene.config.model is not None
            and (refusal := checkpoint_refusal(scene, stores_of(scene.config, stores))) is not None
        }
    finally:
        stores.close()
    refused = [*(change.refused for change in found), *(one.refused for one in labels), bool(refusals)]
    code = 1 if any(refused) else 0
    if as_json:
        said = [*(change.to_json() for change in found), *(one.to_json() for one in labels)]
        for model, refusal in refusals.items():
            said.append(
                {"name": model, "kind": "model", "change": "changed", "differences": [refusal], "refused": True}
            )
        print_json(said)
        return code
    prose = ("columns", "difference", "stored with it", "state")
    titles = ("name", "kind", "is", "a worker would", *prose)
    columns = [Column(title, "prose" if title in prose else "name") for title in titles]
    table = Listing("definitions beside the registry", columns)
    for c in found:
        verdict = "refuse to start" if c.refused else "start"
        table.add(
            c.name, c.kind, c.what, verdict, "\n".join(c.columns), "\n".join(c.differences), "\n".join(c.data), c.state
        )
    for one in labels:
        verdict = "refuse to start" if one.refused else "start"
        differences = "\n".join(map(str, one.differences))
        table.add(one.name, "labels", one.what, verdict, "", differences, "\n".join(one.data), one.effect)
    for model, refusal in refusals.items():
        table.add(model, "model", "changed", "refuse to start", "", refusal, "a checkpoint", "")
    table.print(terminal())
    return code
