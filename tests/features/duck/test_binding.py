"""A text is bound against the tables that its binder has now, whatever was bound before, by whom."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError

NUMBERS, TEXTS = pa.schema({"a": pa.int64()}), pa.schema({"a": pa.string()})
SQL = "SELECT a AS v FROM t"


def test_the_types_are_those_of_the_tables_of_this_binder() -> None:
    for schema, type_, written in ((NUMBERS, pa.int64(), "BIGINT"), (TEXTS, pa.string(), "VARCHAR")) * 2:
        binder = Binder({"t": schema})
        assert binder.describe(SQL).field("v").type == type_
        assert binder.types(SQL) == [written]


def test_a_table_that_is_declared_anew_is_bound_anew() -> None:
    binder = Binder({"t": NUMBERS})
    assert binder.describe(SQL).field("v").type == pa.int64()
    binder.declare("t", TEXTS)
    assert binder.describe(SQL).field("v").type == pa.string()
    binder.declare("u", NUMBERS)
    assert binder.describe("SELECT t.a || u.a AS v FROM t, u").field("v").type == pa.string()


def test_what_another_binder_has_this_one_has_not() -> None:
    Binder({"t": NUMBERS, "u": NUMBERS}).describe("SELECT u.a FROM t, u")
    with pytest.raises(BindError, match="u does not exist"):
        Binder({"t": NUMBERS}).describe("SELECT u.a FROM t, u")


def test_a_text_that_was_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(BindError, match="random"):
            Binder({"t": NUMBERS}).describe("SELECT random() + a AS v FROM t")
