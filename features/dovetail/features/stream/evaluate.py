"""States into values: fold what each window holds at each probe time, over all partitions of the key."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dovetail.features.stream.fold import fold_partials, fold_rows, identity, words_of
from dovetail.features.stream.kernel import INT64_MIN, Words, boundary_of, bucket_of, compiled, lower_bound
from dovetail.features.stream.layout import UNBOUNDED_STEP, Layout, Op, step_of

__all__ = ["EvaluationPlan", "fold_windows"]


class EvaluationPlan(NamedTuple):
    """A layout as :func:`fold_windows` reads it."""

    lateness: int
    row_words: int
    steps: Words  # [S, 2]: step, words per partial
    windows: Words  # [W, 2]: size, index of its step or -1
    op_offsets: Words  # [W + 1]: the ops of window w are ops[op_offsets[w] : op_offsets[w + 1]]
    ops: Words  # [ops, 5]: kind, bit, value column, word in the partial (-1 without step), word in the result

    @classmethod
    def of(cls, layout: Layout) -> EvaluationPlan:
        """The plan of ``layout``; :meth:`result_word` says where in the result an operation stands."""
        index_of_step = {step.step_us: i for i, step in enumerate(layout.steps)}
        windows, ops, offsets, word = [], [], [0], 0
        for w, window in enumerate(layout.view.windows):
            wanted = step_of(window)
            step = None if wanted is None else index_of_step.get(wanted)
            windows.append((window.size_us, -1 if step is None else step))
            for op in layout.ops_of_window(w):
                ops.append((*op, -1 if step is None else 1 + layout.steps[step].word_of(op), word))
                word += op.words
            offsets.append(len(ops))
        return cls(
            layout.lateness_us,
            layout.row_words,
            np.array([(s.step_us, s.words) for s in layout.steps], dtype=np.int64).reshape(-1, 2),
            np.array(windows, dtype=np.int64).reshape(-1, 2),
            np.array(offsets, dtype=np.int64),
            np.array(ops, dtype=np.int64).reshape(-1, 5),
        )

    @property
    def result_words(self) -> int:
        """Words per probe in the result."""
        return int(sum(Op(*op[:3]).words for op in self.ops.tolist()))

    def result_word(self, window: int, op: Op) -> int:
        """First word of ``op`` over ``window`` in the result."""
        ops = self.ops[self.op_offsets[window] : self.op_offsets[window + 1]]
        found = (ops[:, :3] == np.array(op)).all(axis=1)
        return int(ops[np.argmax(found), 4])


@compiled
def fold_windows(
    words: Words,
    starts: Words,
    states: Words,
    state_starts: Words,
    codes: Words,
    times: Words,
    plan: EvaluationPlan,
    results: Words,
    answerable: npt.NDArray[np.bool_],
) -> None:
    """Fill ``results[word, probe]``; clear ``answerable`` where a state has been collapsed beyond the probe's time.

    Args:
        words, starts: states as ``blobs.decode`` gives them.
        states, state_starts: the states of key k are ``states[state_starts[k] : state_starts[k + 1]]``.
        codes, times: key (-1 for none) and time of each probe.
        plan: of the view.
        results, answerable: written here, ``[words, probes]`` and ``[probes]``.
    """
    head = 4 + plan.steps.shape[0]
    for p in range(codes.size):
        for o in range(plan.ops.shape[0]):
            x, y = identity(plan.ops[o, 0])
            results[plan.ops[o, 4], p] = x
            if words_of(plan.ops[o, 0]) == 2:
                results[plan.ops[o, 4] + 1, p] = y
        if codes[p] < 0:
            continue
        for at in range(state_starts[codes[p]], state_starts[codes[p] + 1]):
            base = starts[states[at]]
            if base == starts[states[at] + 1]:
                continue
            if times[p] < words[base + 2] - plan.lateness:
                answerable[p] = False
                continue
            _fold_state(words, base, head, times[p], plan, results[:, p])


@compiled
def _fold_state(words: Words, base: int, head: int, time: int, plan: EvaluationPlan, result: Words) -> None:
    floor = words[base + 2] - plan.lateness
    rows, raw = words[base + 3], base + head
    end = lower_bound(words, raw, raw + rows, time + 1) - raw
    for w in range(plan.windows.shape[0]):
        step = plan.windows[w, 1]
        low = time - plan.windows[w, 0]
        first, last, partials, at = 0, 0, 0, 0
        if step >= 0:
            width = plan.steps[step, 0]
            low = INT64_MIN if width == UNBOUNDED_STEP else bucket_of(low, width)
            at = raw + rows * plan.row_words
            for s in range(step):
                at += words[base + 4 + s] * plan.steps[s, 1]
            partials = words[base + 4 + step]
            first = lower_bound(words, at, at + partials, low) - at
            last = partials
            low = max(low, boundary_of(floor, width))
        begin = lower_bound(words, raw, raw + end, low) - raw
        for o in range(plan.op_offsets[w], plan.op_offsets[w + 1]):
            kind, out = plan.ops[o, 0], plan.ops[o, 4]
            x, y = result[out], result[out + 1] if words_of(kind) == 2 else 0
            if first < last:
                column = at + plan.ops[o, 3] * partials
                x, y = fold_partials(x, y, kind, words, column, partials, first, last)
            if begin < end:
                x, y = fold_rows(x, y, kind, plan.ops[o, 1], plan.ops[o, 2], words, raw, rows, begin, end)
            result[out] = x
            if words_of(kind) == 2:
                result[out + 1] = y
