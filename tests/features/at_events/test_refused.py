"""Views that have no one value at an event, or none that a column can have, are refused with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.platform.errors import ConfigError, DefinitionError
from tests.features.at_events.two_level_worlds import SQL, TOML, World

REFUSED: dict[str, tuple[tuple[str, str] | None, dict[str, tuple[str, str]], str]] = {
    "no view": (
        ('enrich = ["visitor"]', 'enrich = ["visitors"]'),
        {},
        "enrich names visitors, which is no batch view or streaming view; did you mean visitor",
    ),
    "another stream": (
        ('enrich = ["popularity"]', 'enrich = ["visitor"]'),
        {},
        r"which reads visits: a row has the values of views FROM by_item itself.*; write visitor FROM by_item, or",
    ),
    "cleaned": (
        None,
        {"visitor.sql": ("FROM visits", "FROM (SELECT user_id, event_time, price, action, item_id FROM visits)")},
        "which reads visits by SELECTs inside FROM.*; write visitor FROM visits, with WHERE and FILTER",
    ),
    "another key": (
        None,
        {
            "visitor.sql": ("user_id", "action"),
        },
        (
            "a view of action, whose events are in all partitions of visits, which is keyed by user_id; declare "
            r'\[rekeyed.NEW\] stream = "visits", key = "action", write visitor FROM NEW, and stream = "NEW" in'
        ),
    ),
    "a long frame": (
        None,
        {"visitor.sql": ("ROWS BETWEEN 3 PRECEDING", "ROWS BETWEEN 1001 PRECEDING")},
        "whose latest holds more than 1000 events; ask for at most 1000",
    ),
    "a type": (
        None,
        {"visitor.sql": ("count(DISTINCT item_id) OVER w", "histogram(item_id) OVER w")},
        "items of view visitor is map<int64, uint64>, which no column of a stream can be; .*of a MAP, take a number",
    ),
    "a sum": (
        None,
        {"visitor.sql": ("CAST(sum(price) OVER w AS DECIMAL(4,2))", "sum(price) OVER w")},
        r"spent of view visitor is decimal128\(38, 2\), which no column of a stream can be; CAST it",
    ),
    "two columns": (
        None,
        {"visitor.sql": ("AS spent", "AS action")},
        "two columns named action: of the stream and of the views in enrich",
    ),
    "each other": (
        ('[rekeyed.by_item]\nstream = "visits"', '[rekeyed.by_item]\nstream = "by_visitor"'),
        {},
        "by_item, by_visitor are made of each other; let one of them be of a stream in",
    ),
    "each other, beside one that is made of them": (
        (
            '[rekeyed.by_item]\nstream = "visits"',
            '[rekeyed.a_leaf]\nstream = "by_visitor"\nkey = "user_id"\n[rekeyed.by_item]\nstream = "by_visitor"',
        ),
        {},
        r"\[rekeyed.by_\w+\] by_item, by_visitor are made of each other",
    ),
    "itself": (
        None,
        {"visitor.sql": ("FROM visits", "FROM by_item")},
        r"rekeyed.by_item\] by_item is made of itself; let it be of a stream in",
    ),
    "a double of its own": (
        None,
        {"taste.sql": ("last(activity)", "avg(activity)")},
        r"avg\(activity\) over DOUBLE .*; write CAST\(… AS DECIMAL\(12,2\)\) AS activity in .*popularity.sql, whose",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_has_no_one_value_at_an_event_is_refused(tmp_path: Path, case: str) -> None:
    toml, files, message = REFUSED[case]
    text = TOML if toml is None else TOML.replace(*toml)
    sql = {name: body.replace(*files[name]) if name in files else body for name, body in SQL.items()}
    with pytest.raises(DefinitionError, match=message):
        World(tmp_path, text, sql)


def test_a_stream_that_nobody_declares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"by_item\.stream: 'visit' is not declared; write one of by_visitor, visits"):
        World(tmp_path, TOML.replace('stream = "visits"', 'stream = "visit"'))
