"""Online values: what a view has for keys, as a request at some time would be served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.stored_states import read_states, stored_keys
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import decode_keys, encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.platform.errors import ConfigError
from dovetail.platform.stores.online import OnlineStore

__all__ = ["online_values", "values_of_keys"]


def online_values(
    view: StreamView, store: OnlineStore, keys: Sequence[str], *, time_us: int | None, limit: int
) -> pa.Table:
    """The values of ``view``: its entity columns, ``as_of``, its values, and ``exact``.

    ``keys`` are as text, the parts of one of several columns separated by commas; without any, ``limit`` keys that
    have a state. ``time_us`` None: the newest event time that the state includes. ``exact`` is False, and the values
    are NULL, at a time that is too far behind that to be answered.

    Raises:
        ConfigError: a key is none of the view's entity.
    """
    types = [view.stream.schema.arrow.field(column).type for column in view.entity]
    columns = _typed(view, types, keys) if keys else decode_keys(stored_keys(store, StreamEngine(view), limit), types)
    times = None if time_us is None else pa.array(np.full(len(columns[0]), time_us)).cast(pa.timestamp("us"))
    return values_of_keys(view, store, columns, times)


def values_of_keys(
    view: StreamView, store: OnlineStore, columns: Sequence[pa.Array], times: pa.Array | None = None
) -> pa.Table:
    """As :func:`online_values`, of keys by ``columns``, one for each of the entity, at ``times``, timestamps.

    A time that is NULL, or none given, is the newest event time that the state includes.
    """
    engine = StreamEngine(view)
    encoded, codes = encode_keys(columns)
    state = read_states(store, {view.name: engine}, {view.name: encoded})[view.name]
    marks = [progress.watermark_us for progress in state.progress.values() if progress.watermark_us is not None]
    newest = max(marks, default=NO_WATERMARK)
    asked_us = pa.nulls(len(codes), pa.int64()) if times is None else times.cast(pa.int64())
    times_us = pc.fill_null(asked_us, max(newest, 0)).to_numpy(zero_copy_only=False)
    found = engine.values(state.blobs, state.key_index, codes, times_us, newest)
    entity = dict(zip(view.entity, columns, strict=True))
    values = dict(zip(found.table.column_names, found.table.columns, strict=True))
    as_of = pa.array(times_us).cast(pa.timestamp("us"))
    return pa.table({**entity, "as_of": as_of, **values, "exact": pa.array(found.answerable)})


def _typed(view: StreamView, types: Sequence[pa.DataType], keys: Sequence[str]) -> list[pa.Array]:
    parts = [key.split(",") if len(types) > 1 else [key] for key in keys]
    for key, of_key in zip(keys, parts, strict=True):
        if len(of_key) != len(types):
            raise ConfigError(f"--key {key!r}: {view.name} is by {', '.join(view.entity)}; give a value of each")
    try:
        return [pa.array([of_key[at] for of_key in parts]).cast(type_) for at, type_ in enumerate(types)]
    except pa.ArrowInvalid as error:
        raise ConfigError(f"--key: {error}; {view.name} is by {', '.join(view.entity)}") from error
