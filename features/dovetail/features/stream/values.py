"""States into values: fold what each window holds at each probe time, over all partitions of the key."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dovetail.features.kernels.integers import INT64_MIN, boundary_of, bucket_of, lower_bound
from dovetail.features.kernels.words import Words
from dovetail.features.stream.fold import fold_partials, fold_rows, identity, words_of
from dovetail.features.stream.layout import UNBOUNDED_STEP, Layout, Op, step_of
from dovetail.platform.compiling import compiled

__all__ = ["EvaluationPlan", "distinct_probes", "fold_states", "probes_by_key"]


class EvaluationPlan(NamedTuple):
    """A layout as :func:`fold_states` reads it."""

    lateness: int
    row_words: int
    steps: Words  # [S, 2]: step, words per partial
    windows: Words  # [W, 3]: size, index of its step or -1, how long before the probe it ends
    op_offsets: Words  # [W + 1]: the ops of window w are ops[op_offsets[w] : op_offsets[w + 1]]
    ops: Words  # [ops, 5]: kind, bit, value column, word in the partial (-1 without step), word in the result

    @classmethod
    def of(cls, layout: Layout) -> EvaluationPlan:
        """The plan of ``layout``; :meth:`result_word` says where in the result an operation stands."""
        index_of_step = {(step.step_us, step.end_us): i for i, step in enumerate(layout.steps)}
        windows, ops, offsets, word = [], [], [0], 0
        for w, window in enumerate(layout.view.windows):
            wanted = step_of(window)
            step = None if wanted is None else index_of_step.get((wanted, window.end_us))
            windows.append((window.size_us, -1 if step is None else step, window.end_us))
            for op in layout.ops_of_window(w):
                ops.append((*op, -1 if step is None else 1 + layout.steps[step].word_of(op), word))
                word += op.words
            offsets.append(len(ops))
        return cls(
            layout.lateness_us,
            layout.row_words,
            np.array([(s.step_us, s.words) for s in layout.steps], dtype=np.int64).reshape(-1, 2),
            np.array(windows, dtype=np.int64).reshape(-1, 3),
            np.array(offsets, dtype=np.int64),
            np.array(ops, dtype=np.int64).reshape(-1, 5),
        )

    @property
    def words(self) -> int:
        """How many words the result of a probe has."""
        return sum(Op(kind, 0, 0).words for kind in self.ops[:, 0].tolist())

    @property
    def identities(self) -> Words:
        """The result's words of a probe that no state has been folded into."""
        found = [identity(kind)[: Op(kind, 0, 0).words] for kind in self.ops[:, 0].tolist()]
        return np.array([word for words in found for word in words], dtype=np.int64)

    def result_word(self, window: int, op: Op) -> int:
        """First word of ``op`` over ``window`` in the result."""
        ops = self.ops[self.op_offsets[window] : self.op_offsets[window + 1]]
        found = (ops[:, :3] == np.array(op)).all(axis=1)
        return int(ops[np.argmax(found), 4])


def distinct_probes(codes: Words, times: Words) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``probes`` of different key or time, by place ascending, and for each probe which of these it equals.

    Args:
        codes: int64 ``[p]``, the key of each probe. times: int64 ``[p]``.

    Returns:
        ``probes`` int64 ``[d]``, indices of the first of each kind; ``places`` int64 ``[p]`` into it.
    """
    count = len(codes)
    order = np.lexsort((times, codes))  # stable: of equal ones, the first in front
    first = np.ones(count, dtype=np.bool_)
    sorted_codes, sorted_times = codes[order], times[order]
    first[1:] = (sorted_codes[1:] != sorted_codes[:-1]) | (sorted_times[1:] != sorted_times[:-1])
    firsts = order[first]
    if len(firsts) == count:
        each = np.arange(count, dtype=np.int64)
        return each, each
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    places = np.empty(count, dtype=np.int64)
    places[order] = ranks[np.cumsum(first) - 1]
    return np.sort(firsts), places


@compiled
def probes_by_key(codes: Words, owners: Words) -> tuple[Words, Words]:
    """``probes, starts``: those of key k are ``probes[starts[k] : starts[k + 1]]``, ascending; code -1 is in none."""
    keys = 0
    for p in range(codes.size):
        keys = max(keys, codes[p] + 1)
    for s in range(owners.size):
        keys = max(keys, owners[s] + 1)
    starts = np.zeros(keys + 1, np.int64)
    for p in range(codes.size):
        if codes[p] >= 0:
            starts[codes[p] + 1] += 1
    for k in range(keys):
        starts[k + 1] += starts[k]
    probes, ends = np.empty(starts[keys], np.int64), starts[:keys].copy()
    for p in range(codes.size):
        if codes[p] >= 0:
            probes[ends[codes[p]]] = p
            ends[codes[p]] += 1
    return probes, starts


@compiled
def fold_states(
    words: Words,
    starts: Words,
    owners: Words,
    first_state: int,
    probes: Words,
    probe_starts: Words,
    times: Words,
    plan: EvaluationPlan,
    results: Words,
    answerable: npt.NDArray[np.bool_],
) -> None:
    """Fold states into ``results[word, probe]``; clear ``answerable`` where one is collapsed beyond the probe's time.

    All in one function: an array handed on to another has its references counted, some 5 ns each time.

    Args:
        words, starts: states as ``blobs.decode_runs`` gives them; the first is number ``first_state``.
        owners: the key of each state.
        probes, probe_starts: as :func:`probes_by_key` gives them.
        times: of each probe.
        plan: of the view.
        results, answerable: ``[words, probes]`` and ``[probes]``; before the first run ``plan.identities`` and True.
    """
    lateness, row_words, ops, op_offsets = plan.lateness, plan.row_words, plan.ops, plan.op_offsets
    steps, windows, head = plan.steps, plan.windows, 4 + plan.steps.shape[0]
    for s in range(starts.size - 1):
        base, key = starts[s], owners[first_state + s]
        if base == starts[s + 1]:
            continue
        floor, rows, raw = words[base + 2] - lateness, words[base + 3], base + head
        for n in range(probe_starts[key], probe_starts[key + 1]):
            p = probes[n]
            time = times[p]
            if time < floor:
                answerable[p] = False
                continue
            newest = lower_bound(words, raw, raw + rows, time + 1) - raw
            for w in range(windows.shape[0]):
                step, low, before = windows[w, 1], time - windows[w, 0], windows[w, 2]
                end = newest if before == 0 else lower_bound(words, raw, raw + newest, time - before + 1) - raw
                first, last, at = 0, 0, 0
                if step >= 0:
                    width = steps[step, 0]
                    low = INT64_MIN if width == UNBOUNDED_STEP else bucket_of(low, width)
                    at = raw + rows * row_words
                    for other in range(step):
                        at += words[base + 4 + other] * steps[other, 1]
                    last = words[base + 4 + step]
                    first = lower_bound(words, at, at + last, low) - at
                    low = max(low, boundary_of(floor - before, width))
                begin = lower_bound(words, raw, raw + end, low) - raw
                for o in range(op_offsets[w], op_offsets[w + 1]):
                    kind, out = ops[o, 0], ops[o, 4]
                    end_of_out = out + words_of(kind) - 1
                    x, y = results[out, p], results[end_of_out, p]
                    if first < last:
                        x, y = fold_partials(x, y, kind, words, at + ops[o, 3] * last, last, first, last)
                    if begin < end:
                        x, y = fold_rows(x, y, kind, ops[o, 1], ops[o, 2], words, raw, rows, begin, end)
                    results[end_of_out, p] = y  # of one word: overwritten by x
                    results[out, p] = x
