"""Generated cases that are always the same ones, for engines that take seconds to answer."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from tests.features.parity.strategies import Case, cases

__all__ = ["drawn_cases"]


def drawn_cases(number: int) -> list[Case]:
    """``number`` cases of the property tests."""
    found: list[Case] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases())
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found[:number]
