"""A shop that never was: users whose taste drifts, items that change daily, and feedback that arrives late.

A click's log-odds are taste · item + quality + position bias + context, so that the features of ``sql/ranking.sql``
carry signal without giving the answer away. Messages are delayed, now and then by more than the platform allows for,
and sometimes sent twice, because that is what the platform is for. Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.demo.logs.recorded import (
    ARRIVAL,
    BEHAVIOUR_SCHEMA,
    HOUR_US,
    ITEM_SCHEMA,
    LABEL_SCHEMA,
    MINUTE_US,
    REQUEST_SCHEMA,
    SECOND_US,
    RecordedLog,
    arrival_sorted,
    make_table,
    nest_candidates,
)
from dovetail.demo.logs.world import World, make_world
from dovetail.platform.errors import ConfigError

__all__ = ["SimulatorConfig", "simulate"]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

_DAY_US = 24 * HOUR_US
#: Requests whose candidates are drawn at once; bounds the [block, items] matrix of sampling keys.
_BLOCK = 1024
#: Surfaces: share of requests, rows shown, and log-odds of a click there.
_CHANNELS = (("app", 0.55, 8, 0.2), ("web", 0.35, 10, -0.1), ("mail", 0.10, 5, -0.5))
#: Requests by hour of the day, unnormalised: quiet nights, an evening peak.
_HOURS = np.array([3, 2, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 8, 9, 11, 13, 14, 13, 9, 5], dtype=np.float64)


@dataclass(frozen=True)
class SimulatorConfig:
    """Size and temper of the simulated shop. Shares are of 1, durations in microseconds."""

    seed: int = 7
    #: First instant, microseconds since 1970-01-01 UTC; midnight, so that day 0 sees day 0's item versions.
    start_us: int = 1_709_510_400_000_000  # Monday 2024-03-04
    days: int = 3
    users: int = 800
    items: int = 400
    requests: int = 4_000
    candidates: int = 100
    #: Share of shown candidates that get a click, which the intercept is solved for.
    click_rate: float = 0.065
    #: Share of clicks that end in an order.
    conversion_rate: float = 0.12
    #: Share of requests ranked at random instead of by affinity: exploration.
    explore: float = 0.1
    #: Median and log-scale spread of the time from impression to click.
    click_delay_us: int = 40 * SECOND_US
    click_delay_sigma: float = 1.6
    label_window_us: int = 15 * MINUTE_US
    #: Share of messages that arrive 1 to 30 minutes after the fact.
    late: float = 0.01
    #: Share that arrives later than ``allowed_lateness_us``, the lateness the streams in dovetail.toml declare.
    too_late: float = 0.0005
    allowed_lateness_us: int = HOUR_US
    #: Share of messages sent twice.
    duplicates: float = 0.005

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("days", "users", "items", "requests", "candidates")}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"simulator: {name} is {value}; use 1 or more")
        most = max(rows for _, _, rows, _ in _CHANNELS)
        if not most <= self.candidates <= self.items:
            raise ConfigError(
                f"simulator: candidates is {self.candidates}; use at least {most}, the longest page, "
                f"and at most items = {self.items}"
            )
        for name in ("click_rate", "conversion_rate", "explore", "late", "too_late", "duplicates"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"simulator: {name} is {getattr(self, name)}; use a share from 0 to below 1")
        if self.click_rate == 0:
            raise ConfigError("simulator: click_rate is 0, so there would be nothing to learn; use a share above 0")


@dataclass(frozen=True)
class _Requests:
    """Drawn requests in order of time. Matrices are [requests, candidates], columns in rank order."""

    time_us: _Ints
    user: _Ints
    channel: _Ints
    item: _Ints
    affinity: _Floats


@dataclass(frozen=True)
class _Feedback:
    """The fate of shown candidates, one row each; ``request`` and ``item`` are indices."""

    request: _Ints
    item: _Ints
    time_us: _Ints
    #: Price of the item then, in cents.
    cents: _Ints


def simulate(config: SimulatorConfig | None = None) -> RecordedLog:
    """The log of one simulated shop; the same for the same ``config``."""
    config = config or SimulatorConfig()
    rng = np.random.default_rng(config.seed)
    world = make_world(rng, users=config.users, items=config.items, days=config.days)
    requests = _draw_requests(rng, config, world)
    shown = _show(rng, requests, world, config)
    clicked = _click(rng, requests, shown, world, config)
    ordered = _order(rng, clicked, config)
    return RecordedLog(
        name="simulator",
        events=_event_table(rng, config, requests, {"impression": shown, "click": clicked, "order": ordered}),
        requests=_request_table(requests, world),
        labels={
            kind: _label_table(rng, config, feedback)
            for kind, feedback in (("exposure", shown), ("click", clicked), ("conversion", ordered))
        },
        items=_item_table(config, world),
        label_window_us=config.label_window_us,
        slice_us=max(MINUTE_US, config.days * _DAY_US // 288),
        notes=f"simulated, seed {config.seed}: no claim about any real shop; late and doubled messages on purpose",
    ).check()


def _draw_requests(rng: np.random.Generator, config: SimulatorConfig, world: World) -> _Requests:
    hours = np.tile(_HOURS, config.days)
    hour = rng.choice(len(hours), size=config.requests, p=hours / hours.sum())
    time_us = np.sort(config.start_us + hour * HOUR_US + rng.integers(0, HOUR_US, config.requests))
    user = rng.choice(config.users, size=config.requests, p=world.activity)
    channel = rng.choice(len(_CHANNELS), size=config.requests, p=[share for _, share, _, _ in _CHANNELS])
    item = np.concatenate(
        [
            _draw_candidates(rng, world.popularity, min(_BLOCK, config.requests - start), config.candidates)
            for start in range(0, config.requests, _BLOCK)
        ]
    )
    # The caller's estimate knows yesterday's taste, not today's, and only roughly.
    day = (time_us - config.start_us) // _DAY_US
    stale = world.taste(user, day.astype(np.float64))
    affinity = np.einsum("rf,rcf->rc", stale, world.item_vector[item]) + rng.normal(0, 0.7, item.shape)
    explored = rng.random(config.requests) < config.explore
    rank_by = np.where(explored[:, None], rng.random(item.shape), affinity + rng.normal(0, 0.6, item.shape))
    order = np.argsort(-rank_by, axis=1, kind="stable")
    return _Requests(
        time_us,
        user,
        channel,
        np.take_along_axis(item, order, axis=1),
        np.take_along_axis(affinity, order, axis=1).round(4),
    )


def _draw_candidates(rng: np.random.Generator, popularity: _Floats, requests: int, candidates: int) -> _Ints:
    """``candidates`` distinct items per request, weighted by popularity: the Gumbel top-k trick."""
    keys = np.log(popularity) + rng.gumbel(size=(requests, len(popularity)))
    return np.argpartition(-keys, candidates - 1, axis=1)[:, :candidates].astype(np.int64)


def _show(rng: np.random.Generator, requests: _Requests, world: World, config: SimulatorConfig) -> _Feedback:
    """The top of each ranking, rendered a little after the request and row by row."""
    page = np.array([rows for _, _, rows, _ in _CHANNELS])[requests.channel]
    request, rank = np.nonzero(np.arange(config.candidates) < page[:, None])
    rendered = rng.integers(20_000, 1_500_000, len(page))[request] + rank * 15_000
    item = requests.item[request, rank]
    time_us = requests.time_us[request] + rendered
    return _Feedback(request.astype(np.int64), item, time_us, world.price_cents[_day(time_us, config), item])


def _click(
    rng: np.random.Generator, requests: _Requests, shown: _Feedback, world: World, config: SimulatorConfig
) -> _Feedback:
    # Rows are shown request by request from the top, so the rank is the distance from the request's first row.
    rank = np.arange(len(shown.request)) - np.searchsorted(shown.request, shown.request)
    days = (shown.time_us - config.start_us) / _DAY_US
    user, channel = requests.user[shown.request], requests.channel[shown.request]
    hour = (shown.time_us - config.start_us) // HOUR_US % 24
    log_odds = (
        1.1 * np.einsum("nf,nf->n", world.taste(user, days), world.item_vector[shown.item])
        + world.quality[_day(shown.time_us, config), shown.item]
        - 0.35 * np.log2(1 + rank)
        + np.array([odds for _, _, _, odds in _CHANNELS])[channel]
        + np.where((hour >= 19) & (hour < 23), 0.3, 0.0)
    )
    probability = _logistic(log_odds + _intercept(log_odds, config.click_rate))
    return _after(
        rng, shown, rng.random(len(probability)) < probability, config.click_delay_us, config.click_delay_sigma
    )


def _order(rng: np.random.Generator, clicked: _Feedback, config: SimulatorConfig) -> _Feedback:
    bought = rng.random(len(clicked.request)) < config.conversion_rate
    return _after(rng, clicked, bought, 20 * MINUTE_US, 1.2)


def _after(
    rng: np.random.Generator, before: _Feedback, happened: npt.NDArray[np.bool_], median_us: int, sigma: float
) -> _Feedback:
    delay = rng.lognormal(np.log(median_us), sigma, int(happened.sum())).astype(np.int64)
    return _Feedback(
        before.request[happened], before.item[happened], before.time_us[happened] + delay, before.cents[happened]
    )


def _day(time_us: _Ints, config: SimulatorConfig) -> _Ints:
    """Simulated day; feedback after the last midnight still belongs to the last day."""
    return np.minimum((time_us - config.start_us) // _DAY_US, config.days - 1)


def _logistic(log_odds: _Floats) -> _Floats:
    probability: _Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return probability


def _intercept(log_odds: _Floats, rate: float) -> float:
    """The number to add to ``log_odds`` for a mean probability of ``rate``, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if _logistic(log_odds + middle).mean() < rate:
            low = middle
        else:
            high = middle
    return low


def _request_table(requests: _Requests, world: World) -> pa.Table:
    count, candidates = requests.item.shape
    return make_table(
        REQUEST_SCHEMA,
        request_id=_request_ids(np.arange(count)),
        user_id=_user_ids(requests.user),
        request_time=requests.time_us,
        segment=pa.array([f"segment-{s}" for s in range(world.segments)]).take(pa.array(world.segment[requests.user])),
        channel=pa.array([name for name, _, _, _ in _CHANNELS]).take(pa.array(requests.channel)),
        candidates=nest_candidates(
            np.arange(0, (count + 1) * candidates, candidates, dtype=np.int32),
            pa.array(requests.item.ravel() + 1),
            pa.array(np.tile(np.arange(1, candidates + 1, dtype=np.int32), count)),
            pa.array(requests.affinity.ravel()),
        ),
        arrival_time=requests.time_us,
    )


def _event_table(
    rng: np.random.Generator, config: SimulatorConfig, requests: _Requests, feedback: dict[str, _Feedback]
) -> pa.Table:
    tables = [
        make_table(
            BEHAVIOUR_SCHEMA,
            user_id=_user_ids(requests.user[rows.request]),
            item_id=rows.item + 1,
            event_time=rows.time_us,
            action=pa.array([action]).take(pa.array(np.zeros(len(rows.item), dtype=np.int64))),
            price=_money(rows.cents),
            arrival_time=_arrivals(rng, config, rows.time_us),
        )
        for action, rows in feedback.items()
    ]
    return arrival_sorted(_send_some_twice(rng, config, pa.concat_tables(tables)))


def _label_table(rng: np.random.Generator, config: SimulatorConfig, rows: _Feedback) -> pa.Table:
    table = make_table(
        LABEL_SCHEMA,
        request_id=_request_ids(rows.request),
        item_id=rows.item + 1,
        event_time=rows.time_us,
        arrival_time=_arrivals(rng, config, rows.time_us),
    )
    return arrival_sorted(_send_some_twice(rng, config, table))


def _item_table(config: SimulatorConfig, world: World) -> pa.Table:
    """A version of every item for each day: its score follows its quality, roughly."""
    days, items = world.quality.shape
    at = np.repeat(config.start_us + np.arange(days) * _DAY_US, items)
    categories = pa.array([f"category-{c:02d}" for c in range(world.categories)])
    brands = pa.array([f"brand-{b:02d}" for b in range(world.brands)])
    return make_table(
        ITEM_SCHEMA,
        item_id=np.tile(np.arange(1, items + 1), days),
        available_at=at,
        category=categories.take(pa.array(np.tile(world.category, days))),
        brand=brands.take(pa.array(np.tile(world.brand, days))),
        score=world.score.ravel().round(3),
    )


def _arrivals(rng: np.random.Generator, config: SimulatorConfig, time_us: _Ints) -> _Ints:
    """When messages about ``time_us`` reach the broker: soon, late, or later than allowed; never before the fact."""
    delay = rng.exponential(0.3 * SECOND_US, len(time_us)).astype(np.int64)
    fate = rng.random(len(time_us))
    late = rng.integers(MINUTE_US, 30 * MINUTE_US, len(time_us))
    too_late = config.allowed_lateness_us + rng.integers(10 * MINUTE_US, 120 * MINUTE_US, len(time_us))
    delay = np.where(fate < config.late, late, delay)
    delay = np.where(fate >= 1 - config.too_late, too_late, delay)
    return time_us + delay


def _send_some_twice(rng: np.random.Generator, config: SimulatorConfig, table: pa.Table) -> pa.Table:
    """``table`` and, at its end, a copy of some rows that arrives up to a minute later."""
    again = table.take(pa.array(np.flatnonzero(rng.random(table.num_rows) < config.duplicates)))
    delay = pa.array(rng.integers(SECOND_US, MINUTE_US, again.num_rows), pa.int64()).cast(pa.duration("us"))
    where = table.schema.get_field_index(ARRIVAL)
    again = again.set_column(where, table.schema.field(where), pc.add(again[ARRIVAL], delay))
    return pa.concat_tables([table, again])


def _request_ids(index: _Ints) -> pa.Array:
    return _ids("r", index, 7)


def _user_ids(index: _Ints) -> pa.Array:
    return _ids("u", index, 5)


def _ids(prefix: str, index: _Ints, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(index, pa.int64()).cast(pa.string()), width=width, padding="0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _money(cents: _Ints) -> pa.Array:
    """Whole cents as DECIMAL(12,2), exactly."""
    whole = pa.array(cents.astype(np.int32)).cast(pa.decimal128(10, 0))
    return pc.multiply(whole, pa.scalar(Decimal("0.01"), pa.decimal128(3, 2))).cast(pa.decimal128(12, 2))
