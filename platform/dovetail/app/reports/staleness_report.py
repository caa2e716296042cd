"""The loss of a project's model by its age, from stored samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.modelling import recipe_of
from dovetail.platform.archive.dayfiles import DAY_US, NEVER_US, DayFiles, day_start_us
from dovetail.platform.config.durations import parse_duration
from dovetail.platform.config.load import Config
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.errors import ConfigError
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.rankings import RankingPolicy
from dovetail.trainer.staleness import Staleness, losses_by_age

__all__ = ["AGES_US", "known_after", "staleness_of"]

_Ints = npt.NDArray[np.int64]

# Later than any sample.
#: Ages that are asked for by default, as far as there are samples for them.
AGES_US = tuple(parse_duration(text) for text in ("1m", "5m", "15m", "1h", "3h", "6h", "12h", "1d"))


def staleness_of(
    config: Config,
    samples: DayFiles,
    *,
    ages_us: Sequence[int] = (),
    step_us: int = 60_000_000,
    first_us: int | None = None,
    last_us: int | None = None,
    on_day: Callable[[str, int, int], None] | None = None,
) -> Staleness:
    """Train the project's model anew on ``samples`` by ``request_time``, and score them by models of each age.

    Without ``ages_us``, the usual ones up to half of the time that there are samples of. ``on_day`` is told each day
    before it is read, how many there are before it and how many in all.

    Raises:
        ConfigError: the project has no model, there are no samples, or not of a time long enough.
        WireError: samples lack a column that the model reads.
    """
    if config.model is None:
        raise ConfigError(f"staleness trains the model, and dovetail.toml has no {config.section('model')}; declare it")
    high = NEVER_US if last_us is None else last_us
    days = list(samples.days(first_us, high))
    if not days:
        raise ConfigError("there are no samples of these days; run the project's worker, or name Parquet files")
    if config.model.loss != "logistic" or config.model.label != "label":
        raise ConfigError(
            "staleness is measured of models that predict label by logistic loss; this one predicts "
            f"{config.model.label} by {config.model.loss} loss. `dovetail evaluate --window` shows its metrics by time"
        )
    recipe = recipe_of(config.model)
    columns = samples.columns(first_us, high).names
    weighted = "weight" if "weight" in columns else None
    learner = Learner(recipe.encoder, recipe.optimizer, label="label", weight=weighted, slots=recipe.slots)
    read = [name for spec in recipe.encoder.inputs for name in spec.reads]
    wanted = [*read, "label", "request_time", *({"weight", "request_id", "emission", "elapsed_days"} & {*columns})]
    ages = list(ages_us) or _usual(samples, first_us, high)

    def tables() -> Iterator[pa.Table]:
        for number, day in enumerate(days):
            if on_day is not None:
                on_day(day, number, len(days))
            start = day_start_us(day)
            parts = list(samples.read(wanted, max(start, first_us or start), min(start + DAY_US - 1, high)))
            if parts:
                yield pa.concat_tables(parts, promote_options="permissive").sort_by("request_time")

    ranking = RankingPolicy("request_id" if "request_id" in columns else None, config.model.evaluation.ranking_at)
    wait = known_after(config.labels, config.labels.allowed_lateness)
    return losses_by_age(tables(), learner, ages, step_us=step_us, known_after=wait, ranking=ranking)


def known_after(policy: PolicyConfig, allowed_lateness_us: int) -> Callable[[pa.Table], _Ints]:
    """How long after its request a sample of the policy is known: its horizon and the lateness, int64 µs by row.

    Of ``fast_emit`` positives, and where samples do not say how they came about, the longest horizon.
    """
    horizons = policy.horizons_us
    first = {"delayed": ("delayed", "unexposed"), "fast_emit": ("negative",), "return_days": ()}[policy.policy]

    def waits(table: pa.Table) -> _Ints:
        known = np.full(table.num_rows, horizons[-1], np.int64)
        if "emission" in table.column_names and first:
            early = pc.is_in(table.column("emission").cast(pa.string()), pa.array(first))
            known[early.combine_chunks().to_numpy(zero_copy_only=False)] = horizons[0]
        if "elapsed_days" in table.column_names and policy.policy == "return_days":
            known = table.column("elapsed_days").to_numpy().astype(np.int64) * DAY_US
        return known + allowed_lateness_us

    return waits


def _usual(samples: DayFiles, first_us: int | None, last_us: int) -> list[int]:
    """The usual ages up to half of the time between the first and the last sample; the shortest in any case."""
    first, last = samples.ends_us(first_us, last_us) or (0, 0)
    span = last - first
    return [age for age in AGES_US if age <= span // 2] or [AGES_US[0]]
