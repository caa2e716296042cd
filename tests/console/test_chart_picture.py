"""The vertical axis of a drawn chart: round numbers that the values lie between."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.console.chart_picture import chart_svg
from dovetail.trainer.metrics.charts import Chart, ChartLine


def marks_of(values: list[float]) -> list[str]:
    line = ChartLine("all", list(range(len(values))), values)
    svg = chart_svg(Chart("t", [line]))
    return re.findall(r'text-anchor="end" dominant-baseline="middle">([^<]*)<', svg)


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.01, 0.76], ["0", "0.2", "0.4", "0.6", "0.8"]),
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([-3.0, 7.0], ["-4", "-2", "0", "2", "4", "6", "8"]),
        ([0.0], ["-1", "-0.5", "0", "0.5", "1"]),
        ([5.0, 5.0], ["4.7", "4.8", "4.9", "5", "5.1", "5.2", "5.3"]),
    ],
)
def test_marks_are_round_numbers_in_even_steps(values: list[float], marks: list[str]) -> None:
    assert marks_of(values) == marks


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5))
def test_values_of_any_size_lie_between_few_marks(values: list[float]) -> None:
    marks = [float(mark) for mark in marks_of(values)]
    width = (marks[-1] - marks[0]) * 0.01 + max(map(abs, marks)) * 1e-3  # what four digits leave out
    assert 2 <= len(marks) <= 8
    assert marks[0] - width <= min(values)
    assert max(values) <= marks[-1] + width
