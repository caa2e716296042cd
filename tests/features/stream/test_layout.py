"""Which views the engine keeps, and what identifies their states."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from dovetail.features.plan.definitions import (
    AggregateFunction,
    Input,
    StreamView,
    Window,
)
from dovetail.features.stream.collections.rules import CollectionLayout
from dovetail.features.stream.layout import Layout, supported
from tests.features.stream.strategies import SCHEMA, view_of

_HOUR = 3_600_000_000
_PLAIN, _HOP = Window("w", _HOUR, None), Window("h", 24 * _HOUR, _HOUR)


def _input(column: str, filter_: str | None = None) -> Input:
    return Input(column, filter_, SCHEMA.field(column).type)


def _view() -> StreamView:
    return view_of(
        [_PLAIN, _HOP],
        [
            ("count", Input(None, None, pa.int64()), 0),
            ("sum", _input("price", "flag"), 1),
            ("avg", _input("price"), 1),
            ("max", _input("score"), 0),
            ("count", _input("site"), 1),
        ],
    )


@pytest.mark.parametrize(
    ("function", "input_", "reason"),
    [
        ("sum", _input("score"), "f0: sum over double depends on evaluation order; declare the column DECIMAL"),
        ("avg", _input("ratio"), "f0: avg over float depends on evaluation order"),
        ("sum", _input("site"), "f0: sum over string; use an integer or a DECIMAL"),
        ("sum", Input("price * price", None, pa.decimal128(24, 4)), r"f0: sum over decimal128\(24, 4\)"),
        ("var_pop", _input("big"), "f0: var_pop over int64 needs sums of squares beyond the 128 bits"),
        ("min", Input("seen", None, pa.timestamp("ns")), "f0: min over timestamp"),
    ],
)
def test_refused_aggregates(function: AggregateFunction, input_: Input, reason: str) -> None:
    view = view_of([_PLAIN], [(function, input_, 0)])
    with pytest.raises(ValueError, match=rf"view activity \(sql/activity.sql:3\): {reason}"):
        Layout(view)


def test_refused_windows_entities_and_numbers_of_inputs() -> None:
    count = Input(None, None, pa.int64())
    many = [("count", Input(None, f"small > {i}", pa.int64()), 0) for i in range(64)]
    assert supported(view_of([_PLAIN], many)) == [  # type: ignore[arg-type]
        "64 different arguments and filters, the engine keeps 63 per view; split the view in two"
    ]
    assert supported(view_of([_PLAIN], many[:63])) == []  # type: ignore[arg-type]
    wrong = [Window("a", -1, None), Window("b", 5, 0), Window("c", 1 << 61, 5)]
    reasons = supported(view_of(wrong, [("count", count, 0)], lateness_us=-5))
    assert [reason.split(" is ")[0] for reason in reasons] == [
        "allowed_lateness",
        "window a",
        "step of window b",
        "window c",
    ]
    (reason,) = supported(view_of([_PLAIN], [("count", count, 0)], entity=("score",)))
    assert reason.startswith("entity column score is double, which has no canonical bytes")


def test_expressions_are_evaluated_once_and_values_kept_only_where_needed() -> None:
    layout = Layout(_view())
    assert layout.arguments == ("price", "score", "site")
    assert layout.filters == ("flag",)
    assert layout.argument_of_input == (None, 0, 0, 1, 2)
    assert layout.filter_of_input == (None, 0, None, None, None)
    assert layout.value_arguments == (0, 1)
    (step,) = layout.steps
    assert [tuple(op) for op in step.ops] == [(0, 1, 0), (1, 1, 0), (0, 2, 0), (1, 2, 0), (0, 4, 0)]
    assert step.words == 8


def test_the_fingerprint_is_of_the_state_and_not_of_its_names() -> None:
    view = _view()
    fingerprint = Layout(view).fingerprint
    renamed = dataclasses.replace(view, name="other", aggregates=tuple(reversed(view.aggregates)))
    assert Layout(renamed).fingerprint == fingerprint
    for change in (
        {"where": "small <> 3"},
        {"entity": ("site",)},
        {"windows": (_PLAIN, dataclasses.replace(_HOP, size_us=_HOUR))},
        {"windows": (_PLAIN, dataclasses.replace(_HOP, end_us=1))},
        {"inputs": (*view.inputs[:-1], _input("site", "flag"))},
        {"stream": dataclasses.replace(view.stream, allowed_lateness_us=1)},
    ):
        assert Layout(dataclasses.replace(view, **change)).fingerprint != fingerprint


def test_states_of_before_windows_could_end_earlier_are_read() -> None:
    """Fingerprints as they were: a change here makes every worker refuse its states."""
    assert Layout(_view()).fingerprint == -6390067162421105759
    view = view_of([_PLAIN], [("count", _input("site"), 0), ("max", _input("site"), 0)])
    assert CollectionLayout(view, Layout(view)).fingerprint == -5574498938567953872


def test_windows_of_one_step_and_one_end_share_partials() -> None:
    ends = [dataclasses.replace(_HOP, size_us=hours * _HOUR, end_us=end) for hours, end in ((24, 0), (48, 0), (9, 5))]
    layout = Layout(view_of(ends, [("count", Input(None, None, pa.int64()), window) for window in range(3)]))
    assert [(s.step_us, s.end_us, s.reach_us) for s in layout.steps] == [
        (_HOUR, 0, 48 * _HOUR),
        (_HOUR, 5, 9 * _HOUR),
    ]
