"""Snapshot rows of one meaning are judged in one lane: they meet their labels, and the policy decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.assemble import known_times
from dovetail.joiners.matching import Matched, chance, keys_of, match_labels, meet_events, without_early
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.outcomes import label_outcomes
from dovetail.joiners.policies import NEVER, Candidates, Decision, Policy, policy_of
from dovetail.joiners.policies.policy import SAMPLED
from dovetail.joiners.values.counting import Counted, Met, count_labels, first_met
from dovetail.joiners.values.kind_rules import KindRule
from dovetail.platform.rows.intake import time_us

__all__ = ["Judged", "SampleRule", "judge", "rules_for"]


@dataclass(frozen=True, slots=True)
class SampleRule:
    """A rule makes samples of a target of rows of one meaning: by a policy, of these label kinds.

    A label that happened more than ``early_us`` before a request does not count for it. ``rules``, by kind, are there
    where more is declared of a kind than when its labels come.
    """

    policy: Policy
    kinds: tuple[str, ...]
    early_us: int
    rules: Mapping[str, KindRule] = field(default_factory=dict)


class Judged(NamedTuple):
    """Rows judged: the decision, the outcomes of their labels (as the store's ``mark`` takes them).

    ``times``, by kind, int64 µs, NEVER for none, and ``values`` are of the samples that the decision makes.
    ``stood_in``: how many rows are sampled by an exposure that stands for the first of its key.
    """

    decision: Decision
    outcomes: pa.Table
    times: Mapping[str, npt.NDArray[np.int64]]
    values: Mapping[str, pa.Array]
    stood_in: int


def rules_for(meanings: Meanings, target: str) -> Callable[[int], SampleRule]:
    """The rule of a target for rows with a given mark of their meaning."""

    @cache
    def made(fingerprint: int) -> SampleRule:
        meaning = meanings.of(fingerprint, target)
        return SampleRule(policy_of(meaning.targets[target]), meaning.kinds, meaning.early_us, meaning.rules)

    def rule_of(mark: int) -> SampleRule:
        return made(meanings.of(mark, target).fingerprint)

    return rule_of


def judge(rows: pa.Table, labels: pa.Table, events: pa.Table, rule: SampleRule, lane: int) -> Judged:
    """Judge snapshot ``rows`` that the lane's horizon has passed.

    ``labels`` (LABEL_ROWS) are those of their requests, ``events`` (LABEL_EVENTS) those that are kept by themselves.
    """
    keys, request_us = keys_of(rows), time_us(rows, "request_time")
    horizon_us = rule.policy.horizons_us[lane]
    matched, early = without_early(match_labels(keys, labels), request_us, rule.early_us)
    first = Candidates(
        request_us,
        {kind: times[0] for kind, times in matched.items()},
        {kind: times[1] for kind, times in matched.items()},
        rows.column("score").to_numpy(),
        partial(chance, keys),
    )
    kept = set(pc.unique(events.column("kind")).to_pylist()) & set(rule.kinds)
    kept |= {kind for kind, one in rule.rules.items() if one.whole}
    met = {kind: meet_events(keys, events, kind) for kind in sorted(kept)}
    counted = {
        kind: count_labels(one, met, request_us, horizon_us=horizon_us, early_us=rule.early_us)
        for kind, one in rule.rules.items()
        if one.counted
    }
    retracted = {kind: one for kind, one in counted.items() if rule.rules[kind].taken_back_by}
    matched = _with_later(matched, met, request_us, rule.early_us)
    candidates, matched = _with_taken_back(first, matched, retracted)
    decision = rule.policy.decide(lane, candidates)
    taken_back = {kind: one.taken_back for kind, one in retracted.items()}
    outcomes = label_outcomes(rows, first, early, taken_back, decision, rule.policy, lane)
    times = {kind: known_times(matched.get(kind), decision.rows, request_us, horizon_us) for kind in rule.kinds}
    known = first.effective_us.get(rule.policy.exposure)
    stood_in = (decision.outcome == SAMPLED) & (True if known is None else known == NEVER)
    return Judged(decision, outcomes, times, _values_of(counted, times, decision.rows), int(stood_in.sum()))


def _with_later(matched: Matched, met: Mapping[str, Met], request_us: npt.NDArray[np.int64], early_us: int) -> Matched:
    """``matched`` with, of the kinds ``met``, the first label that was not early, where the first of its key was.

    It may also precede the one that is known as the first of its key, where that which was has left.
    """
    mine = dict(matched)
    none = np.full(len(request_us), NEVER, dtype=np.int64)
    for kind, one in met.items():
        first, later = matched.get(kind, (none, none)), first_met(one, request_us, early_us)
        known = (first[0] < later[0]) | ((first[0] == later[0]) & (first[1] <= later[1]))
        mine[kind] = np.where(known, first[0], later[0]), np.where(known, first[1], later[1])
    return mine


def _with_taken_back(first: Candidates, matched: Matched, counted: Mapping[str, Counted]) -> tuple[Candidates, Matched]:
    """``first`` with the labels that ``matched``, and both with, of the kinds ``counted``, the first one that counts.

    Without one: the first label where it took effect after the horizon, so that it is not taken for none.
    """
    mine = dict(matched)
    for kind, one in counted.items():
        effective, event = matched[kind]
        found = one.effective_us != NEVER
        effective = np.where(found, one.effective_us, np.where(one.gone, NEVER, effective))
        mine[kind] = effective, np.where(found, one.event_us, np.where(one.gone, NEVER, event))
    effective_us = {kind: times[0] for kind, times in mine.items()}
    return replace(first, effective_us=effective_us, event_us={kind: times[1] for kind, times in mine.items()}), mine


def _values_of(
    counted: Mapping[str, Counted], times: Mapping[str, npt.NDArray[np.int64]], rows: npt.NDArray[np.int64]
) -> dict[str, pa.Array]:
    """The columns of labels of the samples of ``rows``, NULL where the kind does not count."""
    made: dict[str, pa.Array] = {}
    for kind, one in counted.items():
        place = pa.array(rows, mask=times[kind] == NEVER)
        made |= {name: values.take(place) for name, values in one.values.items()}
    return made
