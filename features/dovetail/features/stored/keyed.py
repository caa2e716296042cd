"""Finding the rows of one table in another by key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.duck.connection import connect
from dovetail.features.language.source import quoted

__all__ = ["match_rows"]


def match_rows(rows: pa.Table, among: pa.Table, key: Sequence[str]) -> npt.NDArray[np.int64]:
    """For each of ``rows``, the first row of ``among`` with the same key; -1 where there is none."""
    connection = connect()
    for name, table in (("wanted", rows), ("known", among)):
        numbers = pa.array(np.arange(table.num_rows, dtype=np.int64))
        connection.register(name, table.select(list(key)).append_column("_number", numbers))
    columns = ", ".join(quoted(name) for name in key)
    found = connection.sql(
        f"""
        SELECT coalesce(_k._first, -1) AS _first
        FROM wanted AS _w LEFT JOIN (SELECT {columns}, min(_number) AS _first FROM known GROUP BY {columns}) AS _k
        USING ({columns}) ORDER BY _w._number
        """
    ).to_arrow_table()
    connection.close()
    return np.asarray(found.column("_first").to_numpy(), dtype=np.int64)
