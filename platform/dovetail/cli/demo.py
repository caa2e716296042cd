"""``dovetail demo``: a live table while it runs, the summary and the two verdicts at the end."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import terminal, verdict
from dovetail.cli.stored.consistency import summary, witnessed
from dovetail.demo.logs.find import find_log
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import DemoResult, ReplayProgress, run_demo

__all__ = ["run"]


def run(data: Path | None, json_file: Path | None, keep: Path | None, requests: int | None, seed: int | None) -> int:
    """Run the demo; 0 when both verdicts hold, 1 when not."""
    console = terminal()
    log = find_log(data) if data is not None else simulate(_simulator(requests, seed))
    counts = ", ".join(f"{rows:,} {what}" for what, rows in log.counts.items() if rows)
    console.print(Text.assemble((log.name, "bold"), f": {counts}"))
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dovetail-demo-")))
        show = stack.enter_context(_Show(console))
        result = asyncio.run(run_demo(log, folder, on_progress=show.update))
    if json_file is not None:
        json_file.write_text(json.dumps(result.summary, indent=2) + "\n", encoding="utf-8")
    _print_summary(console, result)
    console.print(f"\nto look at it  {_looking(keep)}")
    return 0 if result.passed else 1


def _looking(keep: Path | None) -> str:
    """The command that shows the run in a browser, as this shell finds it."""
    called = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "dovetail" else "dovetail"
    found = shutil.which("dovetail")
    if found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve():
        called = "dovetail"
    if keep is None:
        return f"{called} demo --keep DIR keeps a run, and {called} console --run DIR shows it in a browser"
    return f"{called} console --run {shlex.quote(str(keep))}"


def _simulator(requests: int | None, seed: int | None) -> SimulatorConfig:
    given = {"requests": requests, "seed": seed}
    return SimulatorConfig(**{name: value for name, value in given.items() if value is not None})


class _Show:
    """Progress: a live table on a terminal, a line every tenth of the way otherwise."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._bar.add_task("replay", total=None)
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._tenth = 0

    def __enter__(self) -> _Show:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: ReplayProgress) -> None:
        """Take note of the replay's progress."""
        if self._live is not None:
            self._bar.update(self._task, completed=progress.slices, total=progress.of)
            self._live.update(Group(self._bar, _live_table(progress)))
            return
        tenth = progress.slices * 10 // progress.of
        if tenth > self._tenth:
            self._tenth = tenth
            self._console.print(f"{tenth * 10:3d} %  {_moment(progress.time_us)}  {_model_line(progress)}")


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def _model_line(progress: ReplayProgress) -> str:
    if progress.trained is None:
        return "no samples yet"
    total = progress.trained.total
    return f"{progress.trained.trained:,} samples, log-loss {_number(total.log_loss)}, AUC {_number(total.auc)}"


def _live_table(progress: ReplayProgress) -> Table:
    table = Table(title=f"event time {_moment(progress.time_us)} UTC")
    table.add_column("topic")
    table.add_column("messages sent", justify="right")
    for topic, messages in progress.sent.items():
        if messages:
            table.add_row(topic, f"{messages:,}")
    table.add_section()
    table.add_row("model", _model_line(progress))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_summary(console: Console, result: DemoResult) -> None:
    columns = [
        Column("stage"), Column("topic"), Column("read", "number"), Column("difference", "number"),
        Column("outcomes", "prose"),
    ]  # fmt: skip
    accounts = Listing("accounts: rows in and their outcomes", columns)
    for stage in result.audit.stages:
        outcomes = ", ".join(f"{what} {rows:,}" for what, rows in sorted(stage.outcomes.items()) if rows)
        accounts.add(stage.stage, stage.topic, f"{stage.read:,}", str(stage.difference), outcomes)
    accounts.print(console)
    for check in result.audit.checks:
        console.print(f"{'=' if check.holds else '≠'} {check.what}: {check.left:,} and {check.right:,}")
    s = result.summary
    console.print(
        f"\nmodel        {s['samples']:,} samples, {s['positives']:,} positive: log-loss {_number(s['log_loss'])}, "
        f"AUC {_number(s['auc'])}, normalised entropy {_number(s['normalized_entropy'])}, "
        f"calibration {_number(s['calibration'])}"
    )
    console.print(summary(result.consistency))
    for feature in result.consistency.features:
        for example in feature.examples:
            console.print(f"  {feature.feature} of {example}")
    console.print(witnessed(result.witness))
    for wrong in result.witness.examples:
        console.print(f"  {wrong}")
    counts = f"{len(result.audit.stages)} accounts, {len(result.audit.checks)} checks between them"
    console.print(Text.assemble("audit        ", verdict(result.audit.balanced), f"  {counts}"))
    for wrong in result.audit.unbalanced:
        console.print(f"  {wrong}")
    if not result.consistency.compared:
        console.print("no value was served, so these verdicts are about nothing: see the dead letters above")
    console.print(f"seconds      {s['seconds']}")
    if result.log.notes:
        console.print(f"\n{result.log.notes}", style="dim")
