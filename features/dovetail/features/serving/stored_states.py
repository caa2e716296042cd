"""States of keys as they are stored: the head of each, and the chunks of its long lists (``chunks.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dovetail.features.stream.collections.chunks import chunks_named, directory_suffix
from dovetail.features.stream.collections.rules import CollectionLayout
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import is_entity
from dovetail.platform.errors import DamagedState
from dovetail.platform.stores.online import KeyStates, OnlineStore

__all__ = ["read_states", "stored_keys"]


def read_states(
    store: OnlineStore, engines: Mapping[str, StreamEngine], keys: Mapping[str, Sequence[bytes]]
) -> dict[str, KeyStates]:
    """The states of several views' distinct keys, as :meth:`OnlineStore.read` gives them, with chunks beside heads.

    All states of a view are from one snapshot of each source partition: what chunks there are is read first, and then
    everything; if there are others by then, again.

    Raises:
        DamagedState: a directory is damaged, or a chunk is missing that cannot have left.
    """
    long = {view for view in keys if engines[view].collections.chunked}
    asked = {
        view: [*mine, *(_directories(engines[view].collections, mine) if view in long else ())]
        for view, mine in keys.items()
    }
    found = store.read(asked)
    for view in long:
        found[view] = _with_chunks(store, engines[view].collections, view, keys[view], found[view])
    return found


def stored_keys(store: OnlineStore, engine: StreamEngine, limit: int) -> list[bytes]:
    """Keys of a view that have a state, each once, at most ``limit``."""
    view, asked = engine.view, limit
    while True:
        every = store.keys(view.name, asked)
        if not engine.collections.chunked:
            return every
        found = [key for key in every if is_entity(key, len(view.entity))]
        if len(found) >= limit or len(every) < asked:
            return found[:limit]
        asked *= 8


def _directories(layout: CollectionLayout, keys: Sequence[bytes]) -> list[bytes]:
    return [key + directory_suffix(collection) for collection in layout.chunked for key in keys]


def _with_chunks(
    store: OnlineStore, layout: CollectionLayout, view: str, keys: Sequence[bytes], found: KeyStates
) -> KeyStates:
    """The heads and chunks of ``keys``, by key; ``found`` has their heads and directories."""
    known: dict[bytes, int] = {}
    while True:
        named = _named(layout, keys, found)
        if {chunk for chunk, _ in named} <= known.keys():
            return _joined(layout, len(keys), known, len(named), found)
        known |= dict(named)
        found = store.read({view: [*keys, *_directories(layout, keys), *known]})[view]


def _named(layout: CollectionLayout, keys: Sequence[bytes], found: KeyStates) -> list[tuple[bytes, int]]:
    """The chunks that the directories of all partitions name, each with the index of its key."""
    named: list[tuple[bytes, int]] = []
    for at, blob in zip(found.key_index.tolist(), found.blobs, strict=True):
        number, key = divmod(at - len(keys), len(keys))
        if 0 <= number < len(layout.chunked):
            named += [(keys[key] + suffix, key) for suffix in chunks_named(layout, layout.chunked[number], blob)]
    return named


def _joined(layout: CollectionLayout, keys: int, known: Mapping[bytes, int], named: int, found: KeyStates) -> KeyStates:
    """Heads and chunks by key, without directories; ``named`` chunks are expected."""
    owners = np.concatenate([np.arange(keys), np.full(keys * len(layout.chunked), -1), list(known.values())])
    of_key = owners.astype(np.int32)[found.key_index]
    chunks = int((found.key_index >= keys * (1 + len(layout.chunked))).sum())
    if layout.view.retention_us is None and chunks < named:
        raise DamagedState(
            f"view {layout.view.name}: {named - chunks} chunks of lists are missing; rebuild the state with "
            "`dovetail bootstrap`"
        )
    order = np.argsort(of_key, kind="stable")
    order = order[of_key[order] >= 0]
    return KeyStates(of_key[order], [found.blobs[at] for at in order.tolist()], found.progress)
