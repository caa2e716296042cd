"""``dovetail audit``: the accounts of every stage, and every label and snapshot row by outcome."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.app.experiments.arm_scorers import without_experiments
from dovetail.app.reports import audit_all
from dovetail.app.reports.verdict_log import log_audit
from dovetail.app.storage import unopened
from dovetail.app.worker import assemble
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal
from dovetail.features import load
from dovetail.joiners.batch.label_audit import LabelAudit, Line
from dovetail.platform.clock import SystemClock
from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.rows.audit import Audit

__all__ = ["run"]


def run(folder: Path, target: str, keys: Path | None, *, as_json: bool, outcome: str = "", scene: str = "") -> int:
    """Audit a stopped worker's stores; 1 when something does not balance.

    ``outcome``: list every key that has it. ``scene``: whose labels and snapshots are told of.
    """
    loaded = without_experiments(load(folder))
    try:
        worker = assemble(loaded)
    except StoreError:
        if not (shut := unopened(loaded.config)):
            raise
        return _failed(shut, as_json=as_json)
    try:
        result, labels = audit_all(loaded, worker, target, scene)
        log_audit(worker.stores.registry, SystemClock(), result, labels, target, scene)
    finally:
        worker.stores.close()
    if keys is not None and labels.lines:
        pq.write_table(labels.rows, keys, compression="zstd")
    listed = _listed(labels, outcome) if outcome else []
    if as_json:
        print_json({**result.to_json(), "labels": labels.to_json(), **({"listed": listed} if outcome else {})})
        return 0 if result.balanced else 1
    console = terminal()
    columns = [
        Column("what"), Column("day"), Column("partition", "number"), Column("outcome"), Column("rows", "number"),
        Column("such as", "prose"),
    ]  # fmt: skip
    table = Listing("labels and snapshots, by day and partition", columns)
    for line in labels.lines:
        shown = ", ".join(line.keys)
        table.add(line.what, line.day, str(line.partition), line.outcome, f"{line.rows:,}", shown)
    table.print(console)
    for equation in _equations(labels.lines):
        console.print(equation)
    for row in listed:
        console.print(" ".join(f"{name}={value}" for name, value in row.items()))
    for check in result.checks:
        sign = "≠" if not check.holds else "=" if check.left == check.right else "…"
        way = f", {check.left - check.right:,} on the way" if sign == "…" else ""
        console.print(f"{sign} {check.what}: {check.left:,} and {check.right:,}{way}")
    for problem in result.unbalanced:
        console.print(f"does not balance: {problem}")
    for note in result.notes:
        console.print(f"note: {note}")
    console.print("audit holds" if result.balanced else "audit FAILS")
    return 0 if result.balanced else 1


def _failed(shut: Sequence[str], *, as_json: bool) -> int:
    """The audit of stores of which some cannot be opened: it fails for these, and says nothing of the others."""
    wrong = [*shut, "nothing else was audited: what the other stores hold is compared with these"]
    if as_json:
        print_json({**Audit([], [], wrong).to_json(), "labels": []})
        return 1
    console = terminal()
    for problem in wrong:
        console.print(f"does not balance: {problem}")
    console.print("audit FAILS")
    return 1


def _equations(lines: Sequence[Line]) -> list[str]:
    """Rows in = rows by outcome, for each what, day and partition."""
    groups = groupby(sorted(lines), key=lambda line: (line.what, line.day, line.partition))
    said = []
    for (what, day, partition), members in groups:
        outcomes = {line.outcome: line.rows for line in members}
        terms = " + ".join(f"{rows:,} {outcome}" for outcome, rows in outcomes.items())
        said.append(f"{what} {day}, partition {partition}: {sum(outcomes.values()):,} in = {terms}")
    return said


def _listed(labels: LabelAudit, outcome: str) -> list[dict[str, Any]]:
    """Every row with ``outcome``.

    Raises:
        ConfigError: there is no such outcome.
    """
    known = sorted({line.outcome for line in labels.lines})
    if outcome not in known:
        raise ConfigError(f"--list {outcome}: no row ended as that; there are: {', '.join(known) or 'none at all'}")
    rows: list[dict[str, Any]] = labels.rows.filter(pc.equal(labels.rows.column("outcome"), outcome)).to_pylist()
    return rows
