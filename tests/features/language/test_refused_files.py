"""Files, declarations and labels outside the language are refused by line, with a remedy."""

from __future__ import annotations

import pytest

from dovetail.platform.errors import DefinitionError
from tests.features.language.conftest import TOML
from tests.features.language.refusing import LoadProject, refused

REQUEST = """CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL, page INTEGER,
    candidates STRUCT(item_id BIGINT, slot INTEGER)[] NOT NULL
);"""
TIMES = "event_time TIMESTAMP NOT NULL"
LABELS = f"CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, {TIMES});"
EXPOSURE = f"CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, {TIMES});"

FILES: list[tuple[dict[str, str | None], str]] = [
    ({"sql/x.sql": "SELECT 1; SELECT 2"}, "sql/x.sql:1: expected one SELECT, found 2 statements; a file holds either"),
    ({"sql/x.sql": "DROP TABLE items"}, "sql/x.sql:1: expected one SELECT, found DROP; a file holds either"),
    ({"sql/x.sql": "-- nothing"}, "sql/x.sql:1: expected one SELECT, found 0 statements"),
    ({"sql/x.sql": "SELECT FROM WHERE"}, "sql/x.sql:1: not valid SQL"),
    ({"sql/x.sql": "SELECT item_id FROM items QUALIFY"}, "sql/x.sql:1: "),
    ({"sql/behaviour.sql": None}, "dovetail.toml:2: [streams.behaviour] no CREATE TABLE behaviour in sql; known are"),
    ({"sql/items.sql": None}, "dovetail.toml:5: [tables.items] no CREATE TABLE items in sql; "),
    ({"sql/request.sql": None}, "dovetail.toml:1: [request] no CREATE TABLE request in sql; "),
    ({"sql/labels.sql": None}, "dovetail.toml:14: [labels.streams.exposure] no CREATE TABLE exposure in sql"),
    (
        {"sql/item_profile.sql": None, "sql/ranking.sql": "SELECT request_id, item_id FROM request"},
        "dovetail.toml:8: [b",
    ),
    (
        {"sql/x.sql": "CREATE TABLE extra (a BIGINT)"},
        "sql/x.sql:1: nothing in dovetail.toml uses table extra; declare [streams.extra], [tables.extra] or",
    ),
    (
        {"sql/x.sql": "CREATE TABLE items (a BIGINT)"},
        "sql/x.sql:1: table items is declared twice, first in sql/items.sql:1",
    ),
    ({"sql/x.sql": "CREATE TABLE y (_a BIGINT)"}, "sql/x.sql:1: table y has a reserved column _a; rename the column"),
    ({"sql/x.sql": "CREATE TABLE y (a BIGINT, A BIGINT)"}, "sql/x.sql:1: table y has two columns named a; rename"),
    ({"sql/request.sql": None, "sql/items.sql": REQUEST}, "dovetail.toml:5: [tables.items]"),
    (
        {"sql/behaviour.sql": "CREATE TABLE behaviour (user_id BIGINT, event_time TIMESTAMP)"},
        "sql/behaviour.sql:1: behaviour.event_time is timestamp[us] and may be NULL; declare event_time TIMESTAMP NOT",
    ),
    (
        {"sql/behaviour.sql": "CREATE TABLE behaviour (user_id BIGINT, event_time BIGINT NOT NULL)"},
        "sql/behaviour.sql:1: behaviour.event_time is int64; declare event_time TIMESTAMP NOT NULL",
    ),
    (
        {"sql/behaviour.sql": f"CREATE TABLE behaviour (item_id BIGINT, {TIMES})"},
        "sql/behaviour.sql:1: the key of stream behaviour needs column 'user_id'",
    ),
    (
        {"sql/items.sql": "CREATE TABLE items (a BIGINT)"},
        "sql/items.sql:1: offline table items needs column 'available_at'",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("item_id BIGINT", "item_id VARCHAR")},
        "sql/labels.sql:1: click.item_id is string, request's is int64; declare the same type in both",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("request_id VARCHAR NOT NULL", "request_id VARCHAR")},
        "sql/labels.sql:1: click.request_id may be NULL; declare request_id NOT NULL: labels are found by it",
    ),
    (
        {"sql/labels.sql": EXPOSURE + LABELS.replace("item_id", "item")},
        "sql/labels.sql:1: label stream click needs column",
    ),
    (
        {"sql/request.sql": REQUEST.replace("request_id VARCHAR NOT NULL", "request_id VARCHAR")},
        "sql/request.sql:1: request.request_id may be NULL; declare request_id NOT NULL",
    ),
    (
        {"sql/request.sql": REQUEST.replace("_time TIMESTAMP", "_time BIGINT")},
        "sql/request.sql:1: request.request_time is",
    ),
    (
        {"sql/request.sql": REQUEST.replace("STRUCT(item_id BIGINT, slot INTEGER)[]", "BIGINT[]")},
        "sql/request.sql:1: reques",
    ),
    (
        {"sql/request.sql": REQUEST.replace("item_id", "thing")},
        "sql/request.sql:1: request.candidates has no member item_id",
    ),
    (
        {"sql/request.sql": REQUEST.replace("slot", "page")},
        "sql/request.sql:1: page is both a request column and a cand",
    ),
]


@pytest.mark.parametrize(("files", "message"), FILES)
def test_files_and_declarations(load_project: LoadProject, files: dict[str, str | None], message: str) -> None:
    refused(load_project, files, message)


def test_a_view_may_not_have_a_tables_name(load_project: LoadProject) -> None:
    both = {"sql/tables.sql": "CREATE TABLE items (item_id BIGINT, available_at TIMESTAMP NOT NULL)"}
    refused(
        load_project,
        {**both, "sql/items.sql": "SELECT item_id FROM items"},
        "sql/items.sql:1: items is a table and a view; rename the file",
    )


def test_a_batch_view_needs_a_period(load_project: LoadProject) -> None:
    toml = """[streams.behaviour]
key = "user_id"
[tables.items]
path = "items.parquet"
[batch_views.item_profile]
every = "0s"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
    refused(
        load_project, {"dovetail.toml": toml}, "dovetail.toml:5: [batch_views.item_profile] every is 0; write a period"
    )


VALUED = f"{EXPOSURE}\n" + LABELS.replace(
    "TABLE click (", "TABLE click (dwell DOUBLE, amount DECIMAL(9,2), tags VARCHAR[], shop VARCHAR, "
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('dwel = "last"', "needs column 'dwel', which table click does not have"),
        (
            'dwell = "sum"',
            "dwell is double, of which there is no sum for samples; declare dwell BIGINT or DECIMAL(p,s)",
        ),
        ('dwell = "max"', "no max for samples; declare dwell a number that is exact, DATE or TIMESTAMP, or take"),
        ('shop = "min"', "no min for samples; declare shop a number that is exact"),
        ('tags = "first"', "no first for samples; declare its members as columns of their own"),
        ('item_id = "first"', "leave it out: samples have the request's keys, and click_time"),
    ],
)
def test_a_value_of_labels_is_there_and_exact(load_project: LoadProject, values: str, message: str) -> None:
    toml = TOML.replace("[labels.streams.click]", f"[labels.streams.click]\nvalues = {{ {values} }}")
    refused(
        load_project,
        {"dovetail.toml": toml, "sql/labels.sql": VALUED},
        "sql/labels.sql:2: labels.streams.click.values",
        message,
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("tags", "is list<.*>, which names no event; declare tags VARCHAR or BIGINT"),
        ("idd", "event_id needs column .idd., which table click does not have"),
    ],
)
def test_an_id_of_labels_is_there_and_has_one_text(load_project: LoadProject, column: str, message: str) -> None:
    declared = f'[labels.streams.click]\nevent_id = "{column}"\nunique_within = "1h"'
    files = {"dovetail.toml": TOML.replace("[labels.streams.click]", declared), "sql/labels.sql": VALUED}
    with pytest.raises(DefinitionError, match=message):
        load_project(files)


def test_no_feature_is_called_like_a_value_of_labels(load_project: LoadProject) -> None:
    toml = TOML.replace("[labels.streams.click]", '[labels.streams.click]\nvalues = { amount = "sum" }')
    ranking = "SELECT request_id, item_id, page AS click_amount FROM request"
    files = {"dovetail.toml": toml, "sql/labels.sql": VALUED, "sql/ranking.sql": ranking}
    with pytest.raises(DefinitionError, match="click_amount"):
        load_project(files)


def test_an_empty_folder_has_no_definitions(load_project: LoadProject) -> None:
    nothing = dict.fromkeys(
        f"sql/{n}.sql"
        for n in ("behaviour", "items", "request", "labels", "user_activity", "item_stats", "item_profile", "ranking")
    )
    refused(load_project, nothing, "sql:1: no definitions here; run `dovetail init DIR`")
