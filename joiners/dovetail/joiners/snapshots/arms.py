"""An experiment as a worker runs it: which arm a request belongs to, and the scores that its arm's model gives.

A user's *draw* is a number in [0, 1): the first 13 hexadecimal digits of the MD5 of ``SALT:USER``, as text in UTF-8,
over 16^13. Arms have consecutive intervals of it, as long as their shares, in the order of their declaration.
:func:`draw_sql` and :func:`arm_sql` say the same in DuckDB, to the bit, and any warehouse can.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.joiners.contracts import ServingModel

__all__ = ["ARM_COLUMNS", "Experiment", "Split", "arm_sql", "draw_sql"]

#: Columns of a snapshot and, without the underscore, of a sample: experiment and arm (strings), and the user's draw.
ARM_COLUMNS = ("_experiment", "_arm", "_arm_draw")
_DIGITS = 13
_RANGE = 16**_DIGITS


class Split(NamedTuple):
    """The way that the values of the request's column ``by`` are split: arms by name, with their shares."""

    by: str
    salt: str
    arms: Sequence[str]
    shares: Sequence[float]

    @property
    def bounds(self) -> list[float]:
        """The draw below which a user is in each arm or in one before it; the last is 1."""
        return [*(math.fsum(self.shares[: n + 1]) for n in range(len(self.shares) - 1)), 1.0]

    def draws(self, users: pa.ChunkedArray) -> pa.Array:
        """The draw of each user, float64; NULL where there is none. Each distinct user is hashed once."""
        texts = users.cast(pa.string()).combine_chunks().dictionary_encode()
        salt = f"{self.salt}:"
        each = [int(hashlib.md5((salt + text).encode()).hexdigest()[:_DIGITS], 16) / _RANGE  # noqa: S324 - no secret
                for text in texts.dictionary.to_pylist()]  # fmt: skip
        return pa.array(each, pa.float64()).take(texts.indices)

    def places(self, draws: pa.Array) -> npt.NDArray[np.int64]:
        """The number of the arm of each draw, int64; -1 where there is none."""
        found = np.searchsorted(np.array(self.bounds), draws.fill_null(0.0).to_numpy(), side="right")
        return np.where(draws.is_valid().to_numpy(zero_copy_only=False), found, -1).astype(np.int64)


class Experiment(NamedTuple):
    """The running experiment: its name, its split, and the model of each arm."""

    name: str
    split: Split
    models: Sequence[ServingModel]

    def refresh(self) -> None:
        """See that each arm's model is the newest that it is to serve."""
        for model in self.models:
            model.refresh()

    def score(
        self, rows: pa.Table, users: pa.ChunkedArray, otherwise: ServingModel
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], dict[str, pa.ChunkedArray]]:
        """Versions, int64 [n], scores, float32 [n], and :data:`ARM_COLUMNS`, all by row.

        ``users`` has each row's value of the column that is split by. A row without one belongs to no arm, is scored
        by ``otherwise`` and has NULL in all three columns.
        """
        draws = self.split.draws(users)
        places = self.split.places(draws)
        versions, scores = np.zeros(rows.num_rows, np.int64), np.zeros(rows.num_rows, np.float32)
        for place in np.unique(places).tolist():
            mine = places == place
            model = otherwise if place < 0 else self.models[place]
            versions[mine], scores[mine] = model.score(rows if mine.all() else rows.filter(pa.array(mine)))
        none = places < 0
        arm = pa.array(self.split.arms, pa.string()).take(pa.array(places, pa.int64(), mask=none))
        name = pa.array([self.name], pa.string()).take(pa.array(np.zeros(len(none), np.int64), mask=none))
        columns = zip(ARM_COLUMNS, (name, arm, draws), strict=True)
        return versions, scores, {column: pa.chunked_array([values]) for column, values in columns}


def draw_sql(split: Split, column: str) -> str:
    """SQL of DuckDB: the draw of the user in ``column``, an SQL expression; NULL where that is."""
    salt = split.salt.replace("'", "''")
    return f"('0x' || md5('{salt}:' || ({column})::VARCHAR)[1:{_DIGITS}])::BIGINT / {_RANGE}.0::DOUBLE"


def arm_sql(split: Split, column: str) -> str:
    """SQL of DuckDB: the name of the arm of the user in ``column``; NULL where that is."""
    draw = draw_sql(split, column)
    cases = " ".join(f"WHEN {draw} < {b!r}::DOUBLE THEN '{a}'" for a, b in zip(split.arms, split.bounds, strict=True))
    return f"CASE {cases} END"
