"""Rows by request: which requests rows belong to, where each begins, and rows with or without some of them.

A request is known by its offset and row in its partition. ``position`` names the columns that hold them: the own
position columns of flattened requests, the source position columns of snapshots. Rows of a request stand together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.rows.positions import OWN_COLUMNS, pack

__all__ = ["Request", "among", "by_row", "only", "request_starts", "requests_of", "without"]

#: Offset and row of a request in its partition.
Request = tuple[int, int]


def request_starts(rows: pa.Table, position: Sequence[str]) -> list[int]:
    """The index in ``rows`` (not empty) at which each request begins."""
    return [0] if _of_one(rows, position) else _changes(rows, position).tolist()


def requests_of(rows: pa.Table, position: Sequence[str] = OWN_COLUMNS) -> set[Request]:
    """The requests that ``rows`` (of one partition) belong to."""
    if rows.num_rows and _of_one(rows, position):
        return {(_at(rows, position[1], 0), _at(rows, position[2], 0))}
    first = _changes(rows, position)
    offset, row = (rows.column(name).to_numpy()[first] for name in position[1:])
    return set(zip(offset.tolist(), row.tolist(), strict=True))


def among(rows: pa.Table, requests: Collection[Request], position: Sequence[str]) -> npt.NDArray[np.bool_]:
    """A mask over ``rows``: those of ``requests``."""
    if not requests:
        return np.zeros(rows.num_rows, dtype=np.bool_)
    offsets, numbers = np.array(sorted(requests), dtype=np.int64).reshape(-1, 2).T
    return np.isin(_packed(rows, position), pack(offsets, numbers.astype(np.int32)))


def only(rows: pa.Table, requests: Collection[Request], position: Sequence[str]) -> pa.Table:
    """The ``rows`` of ``requests``."""
    return rows.filter(pa.array(among(rows, requests, position))).combine_chunks()


def without(rows: pa.Table, requests: Collection[Request], position: Sequence[str]) -> pa.Table:
    """The ``rows`` but those of ``requests``."""
    return rows.filter(pa.array(~among(rows, requests, position))).combine_chunks() if requests else rows


def by_row(requests: pa.Table, reasons: Mapping[Request, str]) -> dict[int, str]:
    """``reasons`` by the row in ``requests``, which has own positions."""
    at = zip(*(requests.column(name).to_pylist() for name in OWN_COLUMNS[1:]), strict=True)
    return {row: reasons[request] for row, request in enumerate(at) if request in reasons} if reasons else {}


def _of_one(rows: pa.Table, position: Sequence[str]) -> bool:
    """Whether ``rows`` (not empty) are of one request, as in most polls: the last is then of the first one's."""
    return all(_at(rows, name, 0) == _at(rows, name, rows.num_rows - 1) for name in position[1:])


def _changes(rows: pa.Table, position: Sequence[str]) -> npt.NDArray[np.int64]:
    """The index of each row that is of another request than the row before it."""
    at = _packed(rows, position)
    return np.flatnonzero(np.concatenate((np.ones(min(len(at), 1), dtype=np.bool_), at[1:] != at[:-1])))


def _at(rows: pa.Table, name: str, row: int) -> int:
    value: int = rows.column(name)[row].as_py()
    return value


def _packed(rows: pa.Table, position: Sequence[str]) -> npt.NDArray[np.int64]:
    offset, row = (rows.column(name).to_numpy() for name in position[1:])
    return pack(offset, row)
