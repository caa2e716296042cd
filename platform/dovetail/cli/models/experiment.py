"""``dovetail experiment``, ``model promote`` and ``rollback`` by verdict: what an experiment says, and what follows."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dovetail.app.experiments.arm_metrics import METRICS, Difference, ExperimentReport, experiment_report
from dovetail.app.reports.verdict_log import log_experiment
from dovetail.app.storage import open_stores, resolved
from dovetail.cli.listing import Column, Listing
from dovetail.cli.models.report import number_text
from dovetail.cli.output import print_json, terminal
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.config.served.experiments import ExperimentConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.stores.registry.store import Registry

__all__ = ["promote", "roll_back", "run"]


def run(project: Path, name: str | None, *, as_json: bool, log: bool = True) -> int:
    """Measure the arms on the archived samples, and show them; ``log``: keep the report, too, for the console."""
    config = load_config(project)
    report = _report(config, name)
    if log:
        with closing(Registry(resolved(config, config.storage.url("registry")), config.name)) as registry:
            log_experiment(registry, SystemClock(), report)
    if as_json:
        print_json(report.to_json())
        return 0
    console = terminal()
    numbers = ("users", "requests", "samples", *(metric.replace("_", " ") for metric in METRICS))
    columns = [Column("arm"), *(Column(number, "number") for number in numbers), Column("versions", "prose")]
    moved = f"{report.moved:,} users were in more than one arm" if report.moved else ""
    table = Listing(f"experiment {report.name}", columns, note=moved)
    for arm in report.arms:
        counts = [f"{n:,}" for n in (arm.users, arm.requests, arm.samples)]
        rates = [number_text(arm.metrics[metric]) for metric in METRICS]
        table.add(arm.arm, *counts, *rates, ", ".join(map(str, arm.versions)))
    table.print(console)
    about = report.metric.replace("_", " ")
    note = f"the verdict is that of {about}; a line holds at all times at once, with chance {1 - report.level:.4g}"
    compared = Listing(
        f"less {report.control}",
        [Column("arm"), Column("metric"), Column("difference", "number"), Column("between"), Column("", "prose")],
        note=note,
    )
    for each in report.differences:
        apart = "-" if each.difference is None else f"{each.difference:+.5f}"
        compared.add(each.arm, each.metric.replace("_", " "), apart, _bounds(each), each.verdict)
    compared.print(console)
    return 0


def promote(project: Path, name: str, arm: str, *, force: bool, as_json: bool) -> int:
    """Pin the version that an arm is scored with, if the verdict is for it."""
    config = load_config(project)
    name, declared = _declared(config, name)
    if arm not in declared.arms:
        raise ConfigError(f"{name} has no arm {arm}; its arms are {', '.join(declared.arms)}")
    model = declared.arms[arm].model
    if model == "serving":
        raise ConfigError(f"the arm {arm} is scored by the model that serves: there is nothing to promote")
    if not model.startswith("@"):
        raise ConfigError(
            f"the arm {arm} is scored by {model}, which is no version of the project's own model; to serve it, "
            "declare it in [model] or [scorer], or publish it there"
        )
    report = _report(config, name)
    _require_verdict(report, arm, "better", force=force)
    version = int(model[1:])
    stores = open_stores(config)
    try:
        if version not in (there := stores.models.versions()):
            known = ", ".join(map(str, there)) or "none"
            raise ConfigError(
                f"the arm {arm} is scored by version {version}, which is not there any more; there are {known}"
            )
        stores.models.pin(version)
    finally:
        stores.close()
    if as_json:
        print_json({"serving": version, "pinned": True, "verdict": report.verdict(arm), "forced": force})
    else:
        terminal().print(
            f"scorers take up version {version} with their next request; end the experiment by active = false"
        )
    return 0


def roll_back(project: Path, name: str, arm: str, *, force: bool, as_json: bool) -> int:
    """Let the control's model serve instead of the arm's, if the verdict is against it."""
    config = load_config(project)
    name, declared = _declared(config, name)
    control = next(iter(declared.arms))
    if arm not in declared.arms or arm == control:
        others = ", ".join(other for other in declared.arms if other != control)
        raise ConfigError(f"{name} compares {others} with its control {control}; there is no verdict on {arm}")
    report = _report(config, name)
    _require_verdict(report, arm, "worse", force=force)
    stores = open_stores(config)
    try:
        version = _before(name, declared, control, arm, stores.models.pinned)
        stores.models.pin(version)
        serving = version or stores.models.latest()
    finally:
        stores.close()
    if as_json:
        answer = {"serving": serving, "pinned": version is not None, "verdict": report.verdict(arm), "forced": force}
        print_json(answer)
    else:
        terminal().print(f"scorers take up version {serving}, that of {control}, with their next request")
    return 0


def _before(name: str, declared: ExperimentConfig, control: str, arm: str, pinned: int | None) -> int | None:
    """The version to pin so that the control's model serves; None where that is the newest."""
    mine, theirs = declared.arms[arm].model, declared.arms[control].model
    if mine != "serving" and mine != f"@{pinned}":
        raise ConfigError(
            f"the arm {arm} of {name} is scored by {mine}, which serves nobody else: there is nothing to roll back; "
            "end the experiment by active = false"
        )
    if theirs == "serving":
        return None
    if not theirs.startswith("@"):
        raise ConfigError(
            f"the control of {name} is scored by {theirs}, which is no version of the project's own model; to serve "
            "it, declare it in [model] or [scorer], or publish it there"
        )
    return int(theirs[1:])


def _require_verdict(report: ExperimentReport, arm: str, verdict: str, *, force: bool) -> None:
    if force or report.verdict(arm) == verdict:
        return
    found = [d for d in report.differences if (d.arm, d.metric) == (arm, report.metric)]
    why = f"{found[0].verdict}, {report.metric} {_bounds(found[0])}" if found else "it is the control"
    raise ConfigError(f"{report.name} has no verdict that {arm} is {verdict} ({why}); wait for one, or use --force")


def _report(config: Config, name: str | None) -> ExperimentReport:
    name, declared = _declared(config, name)
    stores = open_stores(config, read_only=True)
    try:
        return experiment_report(stores, name, declared)
    finally:
        stores.close()


def _declared(config: Config, name: str | None) -> tuple[str, ExperimentConfig]:
    known = ", ".join(config.experiments) or "none"
    if name is None and len(config.experiments) == 1:
        return next(iter(config.experiments.items()))
    if name is None or name not in config.experiments:
        what = "which experiment?" if name is None else f"there is no experiment {name};"
        raise ConfigError(f"{what} dovetail.toml declares: {known}")
    return name, config.experiments[name]


def _bounds(each: Difference) -> str:
    return "-" if each.low is None or each.high is None else f"{each.low:+.5f} … {each.high:+.5f}"
