"""Samples and snapshots as they were made: those in the archive, and then those that only their topic has yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.storage import Stores
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import Spreader, some_rows, spread_schema
from dovetail.platform.rows.positions import SOURCE_COLUMNS, Progress, SourceFilter, without_messages
from dovetail.platform.stage import Poll
from dovetail.platform.transports.viewing import TopicView, follow, read_all

__all__ = ["made_rows", "of_requests", "unarchived_rows"]


async def made_rows(
    stores: Stores, view: TopicView, dataset: str, topic: str, *, following: bool = False
) -> AsyncIterator[pa.Table]:
    """The rows of a dataset that Dovetail makes, each once: by file of the archive, then by poll of the topic.

    Where definitions have changed, rows from before have the columns of the newest rows, too, as NULL.
    ``following``: only rows that come from now on, and it does not end.
    """
    archived = stores.registry.progress(f"archive.{dataset}")
    if following:
        since: Mapping[int, int] = {number: end for number, (_, end) in (await view.bounds(topic)).items()}
        polls = follow(view, topic, since)
    else:
        refused = stores.registry.refused_rows(dataset)
        known = await _newest_columns(stores, view, dataset, topic)
        # Files that were registered since the progress was read are left out: their rows are read from the topic.
        for file in stores.registry.files(dataset):
            if file.last_offset < archived.get(file.partition, Progress()).next_offset:
                for part in Spreader().parts(stores.offline.read(file.path)):
                    yield _completed(without_messages(part, refused), known)
        polls = _unarchived(view, topic, archived)
    async for part in _rows(polls, archived):
        yield part if following else _completed(part, known)


async def unarchived_rows(view: TopicView, topic: str, archived: Mapping[int, Progress]) -> AsyncIterator[pa.Table]:
    """The rows of a topic that Dovetail makes behind what of it is ``archived``, each once, by poll."""
    async for part in _rows(_unarchived(view, topic, archived), archived):
        yield part


async def _newest_columns(stores: Stores, view: TopicView, dataset: str, topic: str) -> dict[str, pa.DataType]:
    """The columns, with their types, of the newest rows of each partition, in the archive and in the topic."""
    newest = {file.partition: file.path for file in stores.registry.files(dataset)}
    known: dict[str, pa.DataType] = {}
    for path in newest.values():
        with stores.offline.open(path) as opened:
            known |= {field.name: field.type for field in spread_schema(opened.schema_arrow)}
    last = {number: end - 1 for number, (begin, end) in (await view.bounds(topic)).items() if end > begin}
    async for part in _rows(read_all(view, topic, last), {}):
        known |= {field.name: field.type for field in part.schema}
    return known


def _completed(table: pa.Table, known: dict[str, pa.DataType]) -> pa.Table:
    """``table`` with the columns that it lacks of those ``known``, which its own join."""
    for name, type_ in known.items():
        if name not in table.column_names:
            table = table.append_column(pa.field(name, type_), pa.nulls(table.num_rows, type_))
    for field in table.schema:
        known.setdefault(field.name, field.type)
    return table


def _unarchived(view: TopicView, topic: str, archived: Mapping[int, Progress]) -> AsyncIterator[Poll]:
    return read_all(view, topic, {number: progress.next_offset for number, progress in archived.items()})


async def _rows(polls: AsyncIterator[Poll], archived: Mapping[int, Progress]) -> AsyncIterator[pa.Table]:
    filters: dict[int, SourceFilter] = {}
    async for poll in polls:
        progress = archived.get(poll.partition, Progress())
        admitted = filters.setdefault(poll.partition, SourceFilter(progress.sources))
        for part in Spreader().parts(_fresh(poll, admitted)):
            yield part


def _fresh(poll: Poll, filter_: SourceFilter) -> pa.Table:
    rows = wire.decode_arrow(poll)
    return some_rows(rows, np.flatnonzero(filter_.admit(rows))) if SOURCE_COLUMNS[0] in rows.column_names else rows


def of_requests(table: pa.Table, keys: Sequence[str]) -> pa.Array:
    """The rows of any of ``keys``: request ids, or ``REQUEST_ID/ITEM_ID``."""
    requests = table.column("request_id").cast(pa.string())
    pairs = pc.binary_join_element_wise(requests, table.column("item_id").cast(pa.string()), "/")
    wanted = pa.array(list(keys), pa.string())
    return pc.or_(pc.is_in(requests, wanted), pc.is_in(pairs, wanted))
