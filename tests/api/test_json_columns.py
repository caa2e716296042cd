"""Every value that a table may hold is said in JSON, and none is lost."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa

from dovetail.api.json_columns import columns_of


def test_columns_are_json_that_says_all() -> None:
    table = pa.table(
        {
            "i": pa.array([2**63 - 1, None], pa.int64()),
            "f": [math.nan, -math.inf],
            "s": ["\u2028", None],
            "d": pa.array([Decimal("1234567890123456.78"), None], pa.decimal128(18, 2)),
            "t": pa.array([datetime(2024, 2, 29, 10, 0, 0, 5, UTC), None], pa.timestamp("us")),
            "day": pa.array([date(2024, 2, 29), None]),
            "l": [[1.5, math.inf], None],
            "st": [{"a": Decimal("0.10")}, None],
            "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    said = json.loads(json.dumps(columns_of(table, table.column_names), allow_nan=False))
    assert said == {
        "i": [2**63 - 1, None],
        "f": ["nan", "-inf"],
        "s": ["\u2028", None],
        "d": ["1234567890123456.78", None],
        "t": ["2024-02-29T10:00:00.000005", None],
        "day": ["2024-02-29", None],
        "l": [[1.5, "inf"], None],
        "st": [{"a": "0.10"}, None],
        "m": [[["k", 1]], None],
    }
    assert columns_of(pa.table({"x": pa.array([datetime(2024, 1, 1, tzinfo=UTC)])}), ["x"])["x"][0].startswith("2024")
