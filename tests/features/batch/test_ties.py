"""The order of a file's rows changes no value of a batch view: ties are refused, or decided by what the view names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations

import pyarrow as pa
import pytest

from dovetail.features import Project
from dovetail.features.batch.views import run_batch_view
from dovetail.features.plan.definitions import BatchView, Table
from dovetail.platform.errors import DefinitionError

ITEMS = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})
PER_ITEM = "SELECT item_id, {} AS x FROM items GROUP BY item_id"
DECIDED = (
    "arg_max(category, {'at': available_at, 'x': category})",
    "arg_min(category, (available_at, category))",
    "arg_max(category, {'at': available_at, 'n': item_id})",
    "max_by(category, row(available_at, upper(category)))",
    "arg_max(category, {'at': available_at, 'x': category}, 2)",
    "arg_max(category, category)",
    "top_k(histogram(category), 1)[1]",
    "list(category ORDER BY available_at, category)",
    "string_agg(category, ',' ORDER BY category)",
)
UNDECIDED = (
    ("arg_max(category, available_at)", "name what decides ties: arg_max(x, {'y': y, 'x': x})"),
    ("min_by(category, available_at)", "name what decides ties: min_by(x, {'y': y, 'x': x})"),
    ("arg_min(category, available_at, 3)", "name what decides ties"),
    ("arg_max(category, {'at': available_at})", "name what decides ties"),
    ("mode(category)", "write top_k(histogram(x), 1)[1]"),
    ("list(category)", "write its order, with the value itself as the last key: list(x ORDER BY y, x)"),
    ("array_agg(category ORDER BY available_at)", "write its order, with the value itself as the last key"),
    ("string_agg(category, ',')", "write its order"),
)


def given_table(table: pa.Table, _: Table) -> pa.Table:
    return table


@pytest.fixture(params=DECIDED)
def view(request: pytest.FixtureRequest, write_project: Callable[[dict[str, str]], Project]) -> BatchView:
    return write_project({"profile": PER_ITEM.format(request.param)}).batch_views["profile"]


#: Rows that tie in every way but one another.
TIED = [(1, "b", 1), (1, "a", 1), (1, "B", 1)]
OTHERS = [(1, None, 1), (2, "a", 0)]


def test_decided(view: BatchView) -> None:
    """A view that is accepted gives the same for every order of the rows."""
    found = []
    for order in permutations(TIED):
        table = pa.Table.from_pylist(
            [dict(zip(ITEMS.names, row, strict=True)) for row in (*order, *OTHERS)], schema=ITEMS
        )
        found.append(run_batch_view(view, 9, partial(given_table, table)).sort_by("item_id").to_pylist())
    assert len(found) == 6
    assert all(rows == found[0] for rows in found)


@pytest.mark.parametrize(("text", "remedy"), UNDECIDED)
def test_undecided(write_project: Callable[[dict[str, str]], Project], text: str, remedy: str) -> None:
    with pytest.raises(DefinitionError, match="leaves ties to whichever row the file has first") as error:
        write_project({"profile": PER_ITEM.format(text)})
    assert remedy in str(error.value)
