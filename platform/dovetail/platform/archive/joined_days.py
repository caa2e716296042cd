"""Files of joined samples: a day a file, the same bytes whoever writes it, and all of a join's or none of them.

Drafts count from the moment that the registry has their names, which it gets in one transaction. What is left is to
give each its name in the folder; who finds that half done, finishes it.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import eq
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from dovetail.platform.errors import StoreError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.results.joined_files import JoinedFile
from dovetail.platform.stores.registry.store import Registry

__all__ = ["JOINED", "DayDraft", "draft_day", "joined_name", "keep_days", "settle_joins"]

#: The name of a day's file, which that of its draft contains.
JOINED = "samples.parquet"
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


def joined_name(out: str) -> str:
    """The name by which the registry knows the folder or URL ``out``."""
    return out if "://" in out else str(Path(out).absolute())


def keep_days(registry: Registry, name: str, drafts: Sequence[DayDraft]) -> list[str]:
    """Let ``drafts`` be the samples below ``name`` (:func:`joined_name`), all in one transaction; where they are.

    Files of an earlier join are replaced, and removed of days that have no samples now. Who is ended before the
    transaction has changed nothing that is read; after it, :func:`settle_joins` puts in place what is not there yet.

    Raises:
        StoreError: another join into the same folder does this now, or has meanwhile; or the store refuses.
    """
    out = OfflineStore(name)
    with _alone(registry, name):
        _settle(registry, out, name)
        known = registry.joins.files(name)
        mine = {draft.path: JoinedFile(draft.path, draft.rows, draft.draft) for draft in drafts}
        for draft in drafts:
            folder, file = posixpath.split(draft.path)
            out.clear(folder, partial(eq, file), but=[draft.draft])
            if not out.exists(posixpath.join(folder, draft.draft)):
                raise _overtaken(name)
        gone = [JoinedFile(file.path, 0) for file in known if file.path not in mine]
        if not registry.joins.replace(name, known, [*mine.values(), *gone]):
            raise _overtaken(name)
        _settle(registry, out, name)
    return [out.path(path) for path in mine]


def settle_joins(registry: Registry, name: str) -> None:
    """Put in place what a join that was ended on the way has left to be put in place, at or around ``name``.

    Raises:
        StoreError: a join is doing so now; or the store refuses.
    """
    for out in registry.joins.unsettled():
        if name == out or name.startswith(f"{out}/") or out.startswith(f"{name}/"):
            with _alone(registry, out):
                _settle(registry, OfflineStore(out), out)


def _settle(registry: Registry, out: OfflineStore, name: str) -> None:
    files = registry.joins.files(name)
    if all(file.settled for file in files):
        return
    for file in files:
        if not file.rows:
            out.delete(file.path)
        elif file.draft:
            out.put(file.draft, file.path)
    if not registry.joins.replace(name, files, [JoinedFile(file.path, file.rows) for file in files if file.rows]):
        raise _overtaken(name)


def _alone(registry: Registry, name: str) -> AbstractContextManager[None]:
    return registry.alone(f"join-{zlib.crc32(name.encode()):08x}")


def _overtaken(name: str) -> StoreError:
    return StoreError(f"{name}: another join into this folder has ended meanwhile, and its samples count; join again")


def _path(day: str) -> str:
    return f"day={day}/{JOINED}"
