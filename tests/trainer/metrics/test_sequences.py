"""Confidence sequences: looked at all the time, they are wrong as seldom as they say, and they do find differences."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.trainer.metrics.sequences import half_width, rate_of, sums_of

RUNS, USERS, LOOKS, LEAST = 200, 300, 4_000, 60


def ever_left_zero(rates: tuple[float, float], effect: float, seed: int) -> float:
    """The share of runs whose sequence has left the truth, a difference of 0, at any request after the first users.

    Users have click rates of their own, and come again and again: what one does is not independent. After each request
    of a run the sequence is looked at.
    """
    rng = np.random.default_rng(seed)
    run = np.arange(RUNS)
    arm = rng.integers(0, 2, (RUNS, USERS))
    taste = rng.beta(0.5, 4.5, (RUNS, USERS)) * np.array(rates)[arm] / 0.1
    over, under, sums = np.zeros((RUNS, USERS)), np.zeros((RUNS, USERS)), np.zeros((RUNS, 2, 6))
    left = np.zeros(RUNS, np.bool_)
    for _ in range(LOOKS):
        user = rng.integers(0, USERS, RUNS)
        shown = rng.integers(1, 6, RUNS)
        clicks = rng.binomial(shown, np.minimum(taste[run, user], 1.0))
        y, n = over[run, user], under[run, user]
        more = np.stack([n == 0, clicks, shown, (y + clicks) ** 2 - y**2,
                         (y + clicks) * (n + shown) - y * n, (n + shown) ** 2 - n**2], axis=-1)  # fmt: skip
        sums[run, arm[run, user]] += more
        over[run, user] += clicks
        under[run, user] += shown
        rate, variance = rate_of(sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            half = half_width(variance.sum(axis=1), effect * rate_of(sums.sum(axis=1))[0], 0.05)
            outside = np.abs(rate[:, 1] - rate[:, 0]) > half
        left |= outside & (sums[:, :, 0].min(axis=1) >= LEAST)
    return float(left.mean())


@pytest.mark.parametrize("effect", [0.1, 0.5, 3.0])
def test_arms_that_are_alike_are_told_apart_in_a_twentieth_of_runs_at_most(effect: float) -> None:
    assert ever_left_zero((0.1, 0.1), effect, seed=1) <= 0.05


def test_arms_that_differ_are_told_apart() -> None:
    assert ever_left_zero((0.1, 0.25), 0.5, seed=2) >= 0.9


def test_a_rate_and_its_variance_are_those_of_a_ratio_of_sums_over_users() -> None:
    rng = np.random.default_rng(3)
    under = rng.integers(1, 9, 400).astype(float)
    over = rng.binomial(under.astype(int), rng.beta(1, 9, 400)).astype(float)
    rate, variance = rate_of(sums_of(over, under))
    assert rate == pytest.approx(over.sum() / under.sum())
    drawn = rng.integers(0, 400, (4_000, 400))  # a bootstrap of users
    assert variance == pytest.approx(np.var(over[drawn].sum(1) / under[drawn].sum(1)), rel=0.1)


def test_sums_add_up_over_users() -> None:
    over, under = np.array([1.0, 0.0, 3.0]), np.array([2.0, 1.0, 4.0])
    parts = sums_of(over[:1], under[:1]) + sums_of(over[1:], under[1:])
    assert parts.tolist() == sums_of(over, under).tolist()


def test_the_bound_is_the_normal_mixture_of_howard_and_others() -> None:
    """Their eq. (14): u(v) = sqrt((v + rho) log((v + rho) / (rho alpha²))), of the sum; v is information here."""
    information, scale, alpha = 2_500.0, 0.03, 0.05
    rho = 1 / scale**2
    bound = np.sqrt((information + rho) * np.log((information + rho) / (rho * alpha**2))) / information
    assert half_width(1 / information, scale, alpha) == pytest.approx(bound)


def test_one_user_has_no_variance() -> None:
    assert np.isnan(rate_of(sums_of([1.0], [2.0]))[1])
    assert np.isnan(rate_of(sums_of([], []))[0])
