"""Loss by the age of the model: stored samples replayed, each scored by models that had come to know less and less.

Training goes once through the samples, in the order in which they became known. On a grid of times there is a
*version*, the model of all that was known by then. A sample asked for at t is scored, for each age, by the newest
version that is at least so old at t, and before any later version is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Int64
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups, Places
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings, scoped_metrics
from dovetail.trainer.samples.label_columns import column_of_numbers, labels_and_weights

__all__ = ["AgeLoss", "Staleness", "losses_by_age"]

#: The column of a sample's time.
_TIME = "request_time"


@dataclass(frozen=True, slots=True)
class AgeLoss:
    """Metrics of samples scored by models of one age, in microseconds.

    ``mean_age_us``: versions are on a grid, so models are a little older than asked.
    """

    age_us: int
    mean_age_us: float
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Staleness:
    """Losses by age, youngest first, all of the same samples: those from ``first_us`` to ``last_us``."""

    first_us: int
    last_us: int
    #: Samples that came to be known while the last version was made, and are in it.
    trained: int
    ages: tuple[AgeLoss, ...]


def losses_by_age(
    tables: Iterable[pa.Table],
    learner: Learner,
    ages_us: Sequence[int],
    *,
    step_us: int,
    known_after: Callable[[pa.Table], Int64],
    ranking: RankingPolicy | None = None,
) -> Staleness:
    """Replay ``tables``, whose rows ascend by ``request_time``, from one to the next, too; they train ``learner``.

    A row is known ``known_after`` its time: int64 µs [n], at least 0. Versions are at multiples of ``step_us`` since
    1970. Only rows are scored for which there is a version of every age, so that all ages have the same ones. Rows of
    the longest age and the longest delay, and one table, are in memory.

    Raises:
        ConfigError: an age is negative or twice there, the step is below 1, no row is late enough for the longest age,
            or rows are not in order.
        WireError: as :meth:`Learner.learn`.
    """
    if not ages_us or min(ages_us) < 0 or len(set(ages_us)) != len(ages_us) or step_us < 1:
        raise ConfigError(
            f"staleness needs different ages of at least 0 and a step above 0, got {ages_us}, {step_us} µs"
        )
    ages = sorted(ages_us)
    rows = _Rows(iter(tables), known_after)
    judges = [_Judge(age, learner, ranking or RankingPolicy()) for age in ages]
    first = None
    if rows.pull():
        # The first version is the one that has the first row, and the first row scored is the longest age younger.
        version = -(-int(rows.known[0]) // step_us) * step_us
        first, last = version + ages[-1], -1
        while True:
            while not rows.complete(version + ages[-1] + step_us) and rows.pull():
                pass
            rows.train(learner, version)
            for judge in judges:
                last = max(last, judge.score(rows, version, step_us, first))
            if rows.ended and version + ages[0] > rows.newest:
                break
            rows.forget(version, version + ages[0] + step_us)
            version += step_us
    if first is None or not judges[0].samples:
        hours = ages[-1] / 3_600_000_000
        raise ConfigError(f"--age: no sample is {hours:g} h younger than the first that is known; take shorter ages")
    return Staleness(first, last, learner.trained, tuple(judge.loss() for judge in judges))


class _Rows:
    """Rows that are still to be trained on or scored, by ascending time."""

    def __init__(self, tables: Iterator[pa.Table], known_after: Callable[[pa.Table], Int64]) -> None:
        self._tables = tables
        self._known_after = known_after
        self._table = pa.table({})
        self.times: Int64 = np.empty(0, np.int64)
        self.known: Int64 = np.empty(0, np.int64)
        self._trained = np.empty(0, np.bool_)
        self.ended = False
        self.newest = np.iinfo(np.int64).min

    def pull(self) -> bool:
        """Take in the next table that has rows; whether there was one."""
        for table in self._tables:
            if not table.num_rows:
                continue
            times = column_of_numbers(table, _TIME, "time").astype(np.int64)
            if (np.diff(times) < 0).any() or times[0] < self.newest:
                raise ConfigError(f"staleness needs samples by ascending {_TIME}; sort them")
            self.newest = int(times[-1])
            self._table = (
                pa.concat_tables([self._table, table], promote_options="permissive") if len(self.times) else table
            )
            self.times = np.concatenate((self.times, times))
            self.known = np.concatenate((self.known, times + self._known_after(table)))
            self._trained = np.concatenate((self._trained, np.zeros(len(times), np.bool_)))
            return True
        self.ended = True
        return False

    def complete(self, until: int) -> bool:
        """Whether every row up to ``until`` is there."""
        return self.ended or self.newest >= until

    def train(self, learner: Learner, version: int) -> None:
        """Train on what is known by ``version`` and was not before, in the order in which it became known."""
        fresh = np.flatnonzero((self.known <= version) & ~self._trained)
        if len(fresh):
            self._trained[fresh] = True
            learner.learn(self._table.take(pa.array(fresh[np.argsort(self.known[fresh], kind="stable")])))

    def between(self, low: int, high: int) -> tuple[pa.Table, Int64]:
        """Rows with ``low <= time < high``, and their times."""
        start, end = np.searchsorted(self.times, [low, high], side="left").tolist()
        return self._table.slice(start, end - start), self.times[start:end]

    def forget(self, version: int, scored: int) -> None:
        """Let go of rows before ``scored`` that are trained on, when they are half of all."""
        done = self._trained & (self.times < scored)
        if 2 * int(done.sum()) > len(done):
            self._table = self._table.filter(pa.array(~done))
            self.times, self.known, self._trained = self.times[~done], self.known[~done], self._trained[~done]


class _Judge:
    """The metrics of one age."""

    def __init__(self, age: int, learner: Learner, ranking: RankingPolicy) -> None:
        self._age = age
        self._learner = learner
        self._evaluation = Evaluation(windows=1, loss=learner.encoder.loss)
        self._rankings = Rankings(ranking, self._evaluation, Groups())
        self._ages = 0

    @property
    def samples(self) -> int:
        return self._evaluation.samples

    def score(self, rows: _Rows, version: int, step: int, first: int) -> int:
        """Score the rows that this version is just old enough for; the time of the last one, or -1."""
        low = max(first, version + self._age)
        part, times = rows.between(low, version + self._age + step)
        if not part.num_rows:
            return -1
        learner, before = self._learner, self.samples
        predictions = learner.predict(part)
        asked = learner.preparation
        labels, weights = labels_and_weights(part, asked.label, asked.weight, asked.absent)
        self._evaluation.add(predictions, labels, weights)
        self._rankings.add(part, before, predictions, labels, Places())
        self._ages += int((times - version).sum())
        return int(times[-1])

    def loss(self) -> AgeLoss:
        total = scoped_metrics(self._evaluation, Groups(), self._rankings)[0][1]
        return AgeLoss(self._age, self._ages / self.samples, total)
