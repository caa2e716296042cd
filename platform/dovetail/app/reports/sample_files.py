"""Files of joined samples: a day a file, the same bytes whoever writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from dovetail.platform.stores.offline import OfflineStore

__all__ = ["DayDraft", "draft_day", "keep_days"]

#: Rows of a row group.
_ROWS = 1 << 17


class DayDraft(NamedTuple):
    """The draft of a day's file, complete and not yet in place, and its rows."""

    day: str
    draft: str
    rows: int

    @property
    def path(self) -> str:
        """Where it is kept."""
        return _path(self.day)


def draft_day(out: OfflineStore, day: str, columns: pa.Schema, parts: Iterable[pa.Table]) -> DayDraft:
    """Write the samples of a UTC day, given in parts, as a draft. Its bytes do not depend on how parts are cut.

    Raises:
        StoreError: the store refuses.
    """
    held = columns.empty_table()
    rows = 0
    with out.drafting(_path(day), columns) as (draft, writer):
        for part in parts:
            rows += part.num_rows
            held = pa.concat_tables([held, part])
            while held.num_rows >= _ROWS:
                writer.write_table(held.slice(0, _ROWS).combine_chunks(), row_group_size=_ROWS)
                held = held.slice(_ROWS)
        if held.num_rows:
            writer.write_table(held.combine_chunks(), row_group_size=_ROWS)
    return DayDraft(day, draft, rows)


def keep_days(out: OfflineStore, drafts: Iterable[DayDraft]) -> list[str]:
    """Put drafts in place, and say where. A file of an earlier join is replaced, other drafts of it are removed.

    Raises:
        StoreError: the store refuses.
    """
    kept = []
    for draft in drafts:
        out.keep(draft.draft, draft.path)
        kept.append(out.path(draft.path))
    return kept


def _path(day: str) -> str:
    return f"day={day}/samples.parquet"
