"""Labels of axes are true to what is drawn, and legends stay within the picture: read from the drawing itself."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dovetail.trainer.metrics.charts import Chart, ChartLine
from dovetail.trainer.metrics.vega import chart_specification, specification

vl_convert = pytest.importorskip("vl_convert", reason="vl-convert is not installed (the plots extra)")

#: Pixels from where a label of the y axis stands to its tick.
_BASELINE = 3

numbers = st.floats(-1e300, 1e300)
ordinary = st.floats(-1e6, 1e6)


@st.composite
def nearly_the_same(draw: st.DrawFn) -> list[float]:
    base, apart = draw(st.one_of(numbers, ordinary)), 10.0 ** draw(st.integers(-17, -3))
    return [base * (1 - apart * part) for part in draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))]


constant = st.builds(lambda value, count: [value] * count, st.one_of(numbers, ordinary), st.integers(1, 4))
series = st.one_of(
    constant, nearly_the_same(), st.lists(ordinary, min_size=1, max_size=4), st.lists(numbers, min_size=1, max_size=4)
)


def drawing(specified: dict[str, Any]) -> ET.Element:
    svg = re.sub(r' xmlns="[^"]*"', "", vl_convert.vegalite_to_svg(specified))
    return ET.fromstring(svg)


def having(root: ET.Element, name: str) -> list[ET.Element]:
    return [each for each in root.iter("g") if name in each.get("class", "").split()]


def moved(element: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"-?[\d.]+(?:e-?\d+)?", element.attrib["transform"])
    return float(x), float(y)


def number(label: str) -> float:
    return float(label.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def labels_of(root: ET.Element, side: str) -> dict[str, float]:
    """The labels of an axis that are shown, with the pixel each stands at."""
    (axis,) = [each for each in having(root, "role-axis") if each.get("aria-label", "").startswith(side)]
    (group,) = having(axis, "role-axis-label")
    shown = [(each.text or "", moved(each)) for each in group.iter("text") if each.get("opacity") != "0"]
    assert len({text for text, _ in shown}) == len(shown) >= 2, "labels differ, and there are some to read from"
    return {text: x if side == "X" else y - _BASELINE for text, (x, y) in shown}


def assert_read_as(labels: dict[str, float], values: list[float], places: list[float]) -> None:
    """Who reads ``places`` by the first and last label finds every other label, and ``values``, within two pixels."""
    (first, start), *_, (last, end) = labels.items()
    per_pixel = (number(last) - number(first)) / (end - start)
    known = [*zip(values, places, strict=True), *((number(label), place) for label, place in labels.items())]
    for value, place in known:
        assert abs(value - (number(first) + (place - start) * per_pixel)) <= 2 * abs(per_pixel)


def assert_true(values: list[float], *, diagonal: bool = False) -> None:
    chart = Chart("c", [ChartLine("l", values, values)], diagonal=diagonal)
    root = drawing(specification("t", [chart]))
    (dots,) = [each for each in having(root, "mark-symbol") if "role-mark" in each.get("class", "")]
    places = [moved(dot) for dot in dots.iter("path")]
    for number_of_side, side in enumerate("XY"):
        assert_read_as(labels_of(root, side), values, [place[number_of_side] for place in places])


@settings(max_examples=25, deadline=None)
@given(series, st.booleans())
@example([1.1754943508222875e-38], True)
def test_values_are_read_from_the_labels_of_their_axes(values: list[float], diagonal: bool) -> None:
    assert_true(values, diagonal=diagonal)


@pytest.mark.parametrize("value", [-0.0036, 0.25, 0.7345, 12345.678, 0.0, -1e-300, 5e-324, 3e-7, 5e12, 1e300])
def test_a_value_that_stays_the_same_is_not_rounded_to_a_whole_number(value: float) -> None:
    assert_true([value] * 3)


def test_what_no_axis_can_be_laid_around_breaks_its_line() -> None:
    (drawn,) = specification("t", [Chart("c", [ChartLine("l", [0, 1, 2], [1.0, 1.7e308, 2.0])])])["vconcat"]
    assert [(each["y"], each["run"]) for each in drawn["layer"][0]["data"]["values"]] == [(1.0, "0/0"), (2.0, "0/1")]


NAMES = [
    [f"category=category-{number}" for number in range(6)], ["a"], [f"n{number}" for number in range(30)],
    [f"{'name ' * 60}{number}" for number in range(3)], ["short", "W" * 300], ["長" * 300, "é🙂" * 150],
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0][:20])
@pytest.mark.parametrize("width", [None, 330, 600])
def test_legends_stay_within_the_picture(names: list[str], width: int | None) -> None:
    chart = Chart("c", [ChartLine(name, [0, 1], [0.1, 0.2]) for name in names])
    specified = specification("t", [chart]) if width is None else {**chart_specification(chart), "width": width}
    root = drawing(specified)
    legends = having(root, "role-legend")
    drawn = [text for each in legends for text in each.iter("text")]
    assert len(drawn) == len(names)
    for text in drawn:
        assert (text.text or "")[-1] == "…" or any(name.endswith((text.text or "")[-1]) for name in names)
    frame = next(each for each in root.iter("path") if each.get("class") == "background" and width_of(each) > 0)
    assert 0 < max(width_of(each.find("g/path")) for each in legends) <= width_of(frame)
    if width is None:
        assert float(root.attrib["width"]) < 560 + 80
    else:
        assert float(root.attrib["width"]) == width


@pytest.mark.parametrize("name", ["n", "name" * 75])
def test_names_without_an_entry_are_counted(name: str) -> None:
    chart = Chart("c", [ChartLine(f"{name}{number}", [0, 1], [0.1, 0.2]) for number in range(40)])
    (legend,) = having(drawing(specification("t", [chart])), "role-legend")
    *entries, others = (text.text or "" for text in legend.iter("text"))
    assert [entry[-2:] for entry in entries] == [f"{name}{number}"[-2:] for number in range(29)]
    assert others == "…11 entries"


def test_names_that_differ_at_their_end_are_told_apart() -> None:
    chart = Chart("c", [ChartLine("model" * 60 + end, [0, 1], [0.1, 0.2]) for end in ("@1", "@2")])
    for specified in (specification("t", [chart]), {**chart_specification(chart), "width": 330}):
        (legend,) = having(drawing(specified), "role-legend")
        first, second = (text.text or "" for text in legend.iter("text"))
        assert (first[-2:], second[-2:]) == ("@1", "@2")
        assert first[:-1] == second[:-1]
        assert "…" in first


def width_of(path: ET.Element | None) -> float:
    found = None if path is None else re.match(r"M0,0h([\d.]+)v", path.attrib["d"])
    return float(found[1]) if found else 0.0
