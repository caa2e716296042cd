"""How well the candidates of one request are ranked: AUC, NDCG@k, reciprocal rank, hit at k, request by request.

Equal to scikit-learn's on the same request, ties included: ``roc_auc_score`` (a tied pair counts half), ``ndcg_score``
(tied candidates share the mean of their gains; Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR
Techniques", TOIS 2002, gain 1 for a positive). The reciprocal rank is that of the positive ranked first, which of
candidates with its prediction comes last: ``label_ranking_average_precision_score`` where there is one positive. A hit
at k is such a rank of at most k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Bool, Float32, Float64, Int64, UInt64

__all__ = ["RANKED", "RankingMetrics", "close_requests", "discounts_of", "ranking_of"]

# Columns of a sums row. Counts are float64 too: exact to 2**53.
RANKED = ("requests", "without_positive", "without_negative", "impressions", "auc", "ndcg", "reciprocal", "hits")
_REQUESTS, _NO_POSITIVE, _NO_NEGATIVE, _IMPRESSIONS, _AUC, _NDCG, _RECIPROCAL, _HITS = range(len(RANKED))
# Up to so many candidates are sorted by insertion.
_FEW = 32


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """Means over requests that have a positive and a negative; sample weights do not enter. Without any, they are None.

    Requests of one class cannot be ranked wrongly: they are counted apart, and in no mean.
    """

    #: The k of ``ndcg`` and ``hit_rate``.
    at: int
    #: Requests with both classes.
    requests: int
    without_positive: int
    without_negative: int
    #: Samples of the requests with both classes: what was shown, which is what a sample is made of.
    impressions: int
    #: Mean AUC of a request, weighted by its impressions (Zhu et al., "Optimized Cost per Click in Taobao Display
    #: Advertising", KDD 2017).
    gauc: float | None
    #: Mean NDCG@k of a request.
    ndcg: float | None
    #: Mean reciprocal rank of the first positive.
    mrr: float | None
    #: Share of requests with a positive among the first k.
    hit_rate: float | None


def ranking_of(sums: Float64, at: int) -> RankingMetrics:
    """The metrics that one row of sums (float64 [8]) comes to."""
    requests, no_positive, no_negative, impressions, auc, ndcg, reciprocal, hits = sums.tolist()
    counts = int(requests), int(no_positive), int(no_negative), int(impressions)
    if not requests:
        return RankingMetrics(at, *counts, None, None, None, None)
    return RankingMetrics(
        at, *counts, auc / impressions, ndcg / requests, reciprocal / requests, hits / requests
    )  # fmt: skip


def discounts_of(at: int) -> Float64:
    """Sums of the discounts 1 / log2(1 + rank) of the first 0 … ``at`` ranks: float64 [at + 1]."""
    return np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, at + 2)))))


@compiled_as_ieee
def _measure(p: Float32, positive: Bool, discounts: Float64, out: Float64) -> None:
    """The sums row of one request whose candidates are sorted by prediction, highest first."""
    size, at = len(p), len(discounts) - 1
    out[:] = 0.0
    positives = 0
    for i in range(size):
        positives += positive[i]
    if positives == 0 or positives == size:
        out[_NO_NEGATIVE if positives else _NO_POSITIVE] = 1.0
        return
    pairs, gain, rank, seen = 0.0, 0.0, 0, 0
    start = 0
    while start < size:
        end, tied = start, 0
        while end < size and p[end] == p[start]:
            tied += positive[end]
            end += 1
        others = end - start - tied
        if tied > 0 and seen == 0:
            rank = start + others + 1
        pairs += others * (seen + tied / 2)
        gain += tied / (end - start) * (discounts[min(end, at)] - discounts[min(start, at)])
        seen += tied
        start = end
    out[_REQUESTS] = 1.0
    out[_IMPRESSIONS] = size
    out[_AUC] = size * (pairs / (float(positives) * (size - positives)))
    out[_NDCG] = gain / discounts[min(positives, at)]
    out[_RECIPROCAL] = 1.0 / rank
    out[_HITS] = 1.0 if rank <= at else 0.0


@compiled_as_ieee
def _sort(members: Int64, predictions: Float32) -> None:
    """Order members by prediction, highest first."""
    if len(members) > _FEW:
        members[:] = members[np.argsort(-predictions[members])]
        return
    for i in range(1, len(members)):
        moved = members[i]
        j = i - 1
        while j >= 0 and predictions[members[j]] < predictions[moved]:
            members[j + 1] = members[j]
            j -= 1
        members[j + 1] = moved


@compiled_as_ieee
def _grouped(keys: UInt64) -> tuple[Int64, Int64]:
    """Rows by key, the keys in order of appearance: the rows of group g are rows[starts[g]:starts[g + 1]]."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.full(size, -1, np.int64)
    group_of = np.empty(len(keys), np.int64)
    first = np.empty(len(keys), np.int64)
    counts = np.zeros(len(keys) + 1, np.int64)
    groups = 0
    for i in range(len(keys)):
        place = np.int64(keys[i] & np.uint64(size - 1))
        while table[place] >= 0 and keys[first[table[place]]] != keys[i]:
            place = (place + 1) & (size - 1)
        if table[place] < 0:
            table[place] = groups
            first[groups] = i
            groups += 1
        group_of[i] = table[place]
        counts[table[place] + 1] += 1
    starts = np.cumsum(counts[: groups + 1])
    rows = np.empty(len(keys), np.int64)
    ends = starts.copy()
    for i in range(len(keys)):
        rows[ends[group_of[i]]] = i
        ends[group_of[i]] += 1
    return rows, starts


@compiled_as_ieee
def close_requests(
    keys: UInt64,
    numbers: Int64,
    predictions: Float32,
    positive: Bool,
    scopes: Int64,
    before: int,
    discounts: Float64,
    starts: Int64,
    sizes: Int64,
    rings: int,
    ring: Int64,
    sums: Float64,
) -> Bool:
    """Add the requests whose last row has a number below ``before`` to the sums; returns the other rows, bool [n].

    ``keys`` name the requests of the rows, ``numbers`` ascend. Row 0 of ``sums`` is the total. ``scopes``, of shape [n,
    columns], say which other rows a sample counts in: column c has ``sizes[c]`` rows from ``starts[c]`` on. In each of
    the first ``rings`` columns a request has the scope s of its last row, in row s mod size, which it takes over from a
    lower one, as ``ring`` says; a higher one keeps it. In the others a request is judged within each scope by itself.
    """
    rows, first = _grouped(keys)
    kept = np.ones(len(keys), np.bool_)
    of_request, of_slice = np.empty(len(RANKED)), np.empty(len(RANKED))
    for group in range(len(first) - 1):
        members = rows[first[group] : first[group + 1]]
        last = members[len(members) - 1]
        if numbers[last] >= before:
            continue
        kept[members] = False
        _sort(members, predictions)
        p, y = predictions[members], positive[members]
        _measure(p, y, discounts, of_request)
        sums[0] += of_request
        for column in range(rings):
            scope = scopes[last, column]
            row = starts[column] + scope % sizes[column]
            if ring[row] > scope:
                continue
            if ring[row] < scope:
                ring[row] = scope
                sums[row] = 0.0
            sums[row] += of_request
        for column in range(rings, len(starts)):
            mine = scopes[members, column]
            for i in range(len(mine)):
                scope = mine[i]
                if scope < 0:
                    continue
                within = mine == scope
                if within.all():
                    sums[starts[column] + scope] += of_request
                else:
                    _measure(p[within], y[within], discounts, of_slice)
                    sums[starts[column] + scope] += of_slice
                mine[within] = -1
    return kept
