"""Requests that a model is never trained on, so that it can be judged by users' choices that it has not learnt from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.arithmetic import Bool
from dovetail.trainer.samples.columns import hash_column

__all__ = ["COLUMN", "NOTHING_HELD_OUT", "Holdout"]

#: The column that says of a row whether it is held out, ``held`` or ``trained``; metrics are sliced by it.
COLUMN = "holdout"
_REQUEST = "request_id"
_SEED = int.from_bytes(b"held out", "little")


class Holdout(NamedTuple):
    """A share of requests, by the hash of ``request_id``: the same ones for every model, run and machine.

    A request is held out with all of its samples. Of a larger share they are the same requests and more.
    """

    share: float = 0.0

    @classmethod
    def of(cls, share: float) -> Holdout:
        """A share below 1; 0 holds nothing out.

        Raises:
            ConfigError: it is none.
        """
        if not 0 <= share < 1:
            raise ConfigError(f"holdout: {share:g} is no share of the requests; give a number from 0 up to below 1")
        return cls(share)

    @property
    def reads(self) -> str:
        """The column that it goes by; empty where nothing is held out."""
        return _REQUEST if self.share else ""

    def mark(self, table: pa.Table) -> tuple[pa.Table, Bool]:
        """``table`` with the column :data:`COLUMN` where something is held out, and a mask of the rows that are.

        Raises:
            WireError: something is to be held out, and the rows do not say which request they are of.
        """
        if not self.share:
            return table, np.zeros(table.num_rows, np.bool_)
        if _REQUEST not in table.column_names:
            raise WireError(
                f"the table lacks the column {_REQUEST!r} that the holdout goes by; it has {table.column_names}"
            )
        chunks = [hash_column(chunk, column=_REQUEST, seed=_SEED, null=0) for chunk in table.column(_REQUEST).chunks]
        # 53 bits: every share that a double can name is met as it stands.
        drawn = (np.concatenate([np.empty(0, np.uint64), *chunks]) >> np.uint64(11)) / float(1 << 53)
        held: Bool = drawn < self.share
        words = pa.array(["trained", "held"], pa.string())
        column = pa.DictionaryArray.from_arrays(pa.array(held.astype(np.int8)), words).cast(pa.string())
        return table.append_column(COLUMN, column), held


#: Every sample is trained on.
NOTHING_HELD_OUT = Holdout()
