"""The verdict over a worker's accounts: the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from dovetail.app.datasets import samples_dataset
from dovetail.app.storage import Stores
from dovetail.app.trainer_stage import sharding_of
from dovetail.app.worker import Worker
from dovetail.features import Project
from dovetail.features.plan.rekeyed import stage_name
from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.joiners.meanings.registered import known_meanings, retired_scenes
from dovetail.joiners.sample_agent import Lane, lanes_of, sample_scope
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.audit import Audit, Check, audit
from dovetail.platform.stores.labels import let_go_scope, repeated_scope

__all__ = ["audit_books", "audit_worker"]


def audit_worker(worker: Worker, *, settled: bool = True) -> Audit:
    """All accounts of a stopped worker, and that what one stage gave is what the next one got.

    ``settled``: every stage has read its topics to their end. Without it, rows may be on the way from one stage to the
    next wherever the stored positions do not say otherwise.
    """
    return audit_books(worker.project, worker.stores, worker.accounts(), worker.stages, settled=settled)


def audit_books(
    project: Project, stores: Stores, accounts: Sequence[Account], stages: Collection[str], *, settled: bool = True
) -> Audit:
    """As :func:`audit_worker`, of the ``accounts`` of ``stages``, wherever they have come from."""
    totals = _totals(list(accounts))
    labels, retired = stores.labels.outcomes(), retired_scenes(project.config, stores.registry)
    checks = [
        Check(
            f"{kind} labels: inserted, and rows in the label store",
            totals.get((f"labels.{kind}", "inserted"), 0),
            sum(rows for (label, _), rows in labels.items() if label == kind),
        )
        for kind in project.config.labels.streams
    ]
    checks += _kept_by_themselves(stores, totals)
    for scene in project.scenes:
        checks += _of_scene(scene, stores, totals, stages, settled=settled)
    if "samples" in stages:
        checks += _sampled_exposures(project, stores, totals, labels, retired)
    if "archive.samples" in stages:
        checks += [
            _rekeyed(totals, name, declared.stream, settled) for name, declared in project.config.rekeyed.items()
        ]
    notes = [
        f"the scene {name} is not in dovetail.toml any more: its labels, samples and accounts are kept and counted"
        for name in retired
    ]
    return audit(accounts, checks, notes)


def _of_scene(
    project: Project, stores: Stores, totals: Mapping[tuple[str, str], int], stages: Collection[str], *, settled: bool
) -> Iterator[Check]:
    """That what one stage of a scene gave is what the next one got."""
    config, primary = project.config, project.config.labels
    of = f", scene {config.scene}" if config.scene else ""
    snapshots = totals.get((f"{config.in_scene('snapshots')}.candidates", "snapshotted"), 0)
    archived = totals.get((f"archive.{config.in_scene('snapshots')}", "archived"), 0)
    lanes = lanes_of("", primary.samples_topic, primary.held_topics, config.scene)
    made = sum(totals.get((f"{lane.name}.made", READ), 0) for lane in lanes)
    if lanes[0].name in stages:
        yield Check(
            f"snapshot rows: taken, and met by the sample agent{of}",
            snapshots,
            _met(totals, lanes[0]),
            not settled
            and not (archived == snapshots and _as_far(stores, lanes[0].name, config.in_scene("snapshots"))),
        )
        for before, after in pairwise(lanes):
            held = totals.get((f"{before.name}.held", READ), 0)
            what = f"rows met by {after.name} that {before.name} has not held"
            yield Check(what, max(0, _met(totals, after) - held), 0)
    if config.in_scene("trainer") in stages:
        what, given = "made", made  # those that a seeded model was not to be trained on are left out
        if primary.order is not None:
            what, given = "ordered", totals.get((f"order.{primary.samples_topic}", "ordered"), 0)
        name = _trainer_books(project)
        trained = totals.get((name, "trained"), 0) + totals.get((name, "left_out"), 0)
        yield Check(f"samples: {what}, and trained on{of}", given, trained, not settled)
    kept = f"archive.{samples_dataset('', config.scene)}"
    if kept in stages:
        yield Check(f"samples: made, and archived{of}", made, totals.get((kept, "archived"), 0), not settled)
        yield Check(f"snapshot rows: taken, and archived{of}", snapshots, archived, not settled)


def _sampled_exposures(
    project: Project,
    stores: Stores,
    totals: Mapping[tuple[str, str], int],
    labels: Mapping[tuple[str, str], int],
    retired: Mapping[str, Sequence[LabelMeaning]],
) -> Iterator[Check]:
    """Of each kind of exposure: the rows that were sampled by it, in all scenes, and what the label store has of it.

    ``labels`` are the label store's rows by kind and outcome, those of ``retired`` scenes among them: these count, too.
    """
    sampled, stood_in = Counter[str](), Counter[str]()
    scenes: dict[str, Sequence[LabelMeaning]] = {
        one.config.scene: known_meanings(one.config, one.label_schemas, stores.registry).all() for one in project.scenes
    }
    for scene, meanings in {**scenes, **retired}.items():
        exposure = meanings[-1].targets[""].exposure
        policies = {(one.policy, one.exposure) for one in (meaning.targets[""] for meaning in meanings)}
        rules = [one.rules[exposure] for one in meanings if exposure in one.rules]
        # Where every label of a kind is kept, a later one may count when the first is marked as early or taken back.
        if policies != {("delayed", exposure)} or any(rule.whole for rule in rules):
            return
        name = sample_scope("", 0, scene)
        sampled[exposure] += totals.get((name, "sampled"), 0)
        stood_in[exposure] += totals.get((f"{name}.stood_in", "stood_in"), 0)
    for kind, rows in sampled.items():
        marked, again = labels.get((kind, "sampled"), 0), totals.get((repeated_scope(kind), "sampled"), 0)
        what = "exposed rows: sampled, and exposures marked as sampled, met again or standing in for an early one"
        yield Check(what, rows, marked + again + stood_in[kind])


def _trainer_books(project: Project) -> str:
    config = project.config
    sharded = config.model and config.trainer.sharded
    return sharding_of(config, config.model).books if config.model and sharded else config.in_scene("trainer")


def _kept_by_themselves(stores: Stores, totals: Mapping[tuple[str, str], int]) -> Iterator[Check]:
    """Of kinds of which every label is kept: each that was is in the label store, or was let go.

    A store of the version before has some that nobody counted: these do not count here either.
    """
    held = stores.labels.events()
    for stage, outcome in totals:
        if outcome != "kept" or not stage.startswith("labels."):
            continue
        kind, kept = stage.removeprefix("labels.").removesuffix(".kept"), totals[stage, outcome]
        found = held.get(kind, 0) + totals.get((let_go_scope(kind), "let_go"), 0)
        what = f"{kind} labels kept by themselves: kept, and in the label store or let go"
        yield Check(what, kept, min(kept, found))


def _rekeyed(totals: Mapping[tuple[str, str], int], name: str, stream: str, settled: bool) -> Check:
    """What was re-keyed is archived, or a dead letter: a view that came later may have no value for it."""
    given, archived = totals.get((stage_name(name), "rekeyed"), 0), totals.get((f"archive.{name}", "archived"), 0)
    # A dead letter published again after a crash is counted again: it has no position to be known by.
    dead = min(totals.get((f"archive.{name}", "dead_letter"), 0), max(0, given - archived))
    return Check(f"events of {stream}: re-keyed, and archived as {name}", given, archived + dead, not settled)


def _as_far(stores: Stores, lane: str, dataset: str) -> bool:
    """Whether a lane's agent has read exactly as far as the archive of its topic."""
    read, kept = stores.labels.progress(lane), stores.registry.progress(f"archive.{dataset}")
    return {p: at.next_offset for p, at in read.items()} == {p: at.next_offset for p, at in kept.items()}


def _met(totals: Mapping[tuple[str, str], int], lane: Lane) -> int:
    return totals.get((lane.name, READ), 0) - totals.get((lane.name, "duplicate"), 0)


def _totals(accounts: list[Account]) -> dict[tuple[str, str], int]:
    totals: dict[tuple[str, str], int] = {}
    for account in accounts:
        key = (account.stage, account.outcome)
        totals[key] = totals.get(key, 0) + account.rows
    return totals
