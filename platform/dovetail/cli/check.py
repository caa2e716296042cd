"""``dovetail check``: what the definitions are, and that they are right."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dovetail.cli.output import print_json
from dovetail.features import load

__all__ = ["run", "run_diff"]


def run(project: Path, *, as_json: bool) -> int:
    """Load the project and show it; refusals are raised."""
    described = load(project).describe()
    if as_json:
        print_json(
            [
                {"name": d.name, "kind": d.kind, "file": d.file, "line": d.line, "entity": d.entity, **d.details}
                for d in described
            ]
        )
        return 0
    table = Table(title="definitions")
    for column in ("name", "kind", "entity", "what it keeps and computes", "where"):
        table.add_column(column)
    for d in described:
        if d.kind == "streaming":
            kept = [f"{d.details['raw_s']:g} s of rows, {d.details['partials']} partials"]
            kept += [f"of {c['of']}: {c['keeps']}" for c in d.details["collections"]]
            state = "; ".join(kept)
            streams = d.details["streams"]
            per = "per key" if len(streams) == 1 else f"per key, for each SELECT (of {', '.join(streams)}),"
            what = f"{d.details['aggregates']} aggregates; {per} {state}"
            if (states := d.details["states"]) > len(streams):
                what += f"; up to {states} such states per key, one per partition ([rekeyed.NAME] brings them together)"
        elif d.kind == "batch":
            what = f"a version every {d.details['every_s']:g} s from {', '.join(d.details['tables'])}"
        else:
            lanes = [column["lane"] for column in d.details["columns"]]
            what = f"{len(lanes)} columns: {lanes.count('compiled')} compiled, {lanes.count('duckdb')} in DuckDB"
        table.add_row(d.name, d.kind, ", ".join(d.entity), escape(what), escape(f"{d.file}:{d.line}"))
    Console().print(table)
    return 0


def run_diff(project: Path, *, as_json: bool) -> int:
    """Show what is not as registered; 1 when a worker would refuse to start."""
    from dovetail.app.storage import open_stores  # databases and models, which definitions alone do not need
    from dovetail.features.stored.registration import changes

    loaded = load(project)
    stores = open_stores(loaded.config)
    try:
        found = changes(loaded, stores.registry, stores.online)
    finally:
        stores.close()
    code = 1 if any(change.refused for change in found) else 0
    if as_json:
        print_json([change.to_json() for change in found])
        return code
    table = Table(title="definitions beside the registry")
    for column in ("name", "kind", "is", "columns", "stored with it", "state", "a worker would"):
        table.add_column(column)
    for c in found:
        verdict = "refuse to start" if c.refused else "start"
        table.add_row(c.name, c.kind, c.what, "\n".join(c.columns), "\n".join(c.data), c.state, verdict)
    Console().print(table)
    return code
