"""An expression is read at its place in its file: every column says where it stands, beside comments or without."""

from __future__ import annotations

import pytest
from sqlglot import exp

from dovetail.features.language.source import Source

PLAIN = """
SELECT user_id,
       sum(price * t.amount) FILTER (WHERE kind = 'click') OVER w AS spent,
       count(DISTINCT shop) OVER w AS shops
FROM t
WINDOW w AS (PARTITION BY user_id)
"""
COMMENTED = (
    PLAIN.replace("user_id,\n", "user_id, -- whose\n")
    .replace("(price", "(/* each */ price")
    .replace("AS spent,", "AS spent, -- in cents\n")
)


@pytest.mark.parametrize("text", [PLAIN, COMMENTED])
def test_columns_of_a_part_say_where_they_stand(text: str) -> None:
    source = Source("view.sql", text)
    items = source.items()
    parsed = [source.parse(item) for item in items]
    columns = [[column.sql() for column in tree.find_all(exp.Column)] for tree in parsed]
    assert [sorted(names) for names in columns] == [["user_id"], ["kind", "price", "t.amount"], ["shop"]]
    for tree, (start, end) in zip(parsed, items, strict=True):
        for part in tree.find_all(exp.Identifier):
            if "start" in part.meta:
                assert text[part.meta["start"] : part.meta["end"] + 1] == part.name
                assert start <= part.meta["start"] < end
                assert part.meta["line"] == text.count("\n", 0, part.meta["start"]) + 1


def test_a_tree_is_the_callers_own() -> None:
    source = Source("view.sql", PLAIN)
    (span, *_) = source.items()
    source.parse(span).set("this", exp.to_identifier("other"))
    assert source.parse(span).sql() == "user_id"
