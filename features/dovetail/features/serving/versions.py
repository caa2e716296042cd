"""Batch views by version: run on their schedule, readable as of any time.

A view has a version for every multiple of its schedule's interval since 1970-01-01 UTC. The version for V sees the rows
of its offline tables with ``available_at <= V`` and no others, so its content is a function of V: running it early,
late or twice gives the same. A request at T reads the newest version at or before T.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from dovetail.features.batch.views import VersionIndex, lookup_by_version, run_batch_view
from dovetail.features.plan.definitions import BatchView, Table
from dovetail.platform.errors import StoreError, WireError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import BatchVersion, Registry

__all__ = ["BatchVersions", "ForEach", "StoredVersions"]

_VERSIONS_IN_MEMORY = 32
#: Requests come for the newest version or two of each view, samples for those a label window older.
_INDICES_IN_MEMORY = 16


#: The results of a function for some items, in their order, wherever it is called for each. Function, items and results
#: can be sent; it may be called more than once for an item, and the result of one of the calls is given.
ForEach = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


class BatchVersions:
    """Materialises versions when they are first needed, as Parquet and a registry row. Thread-safe."""

    def __init__(
        self,
        views: Mapping[str, BatchView],
        registry: Registry,
        offline: OfflineStore,
        load_table: Callable[[Table], pa.Table] | None,
    ) -> None:
        """``load_table`` None: only versions that are there already are read, and nothing is ever written."""
        self._views = views
        self._registry = registry
        self._offline = offline
        self._load_table = load_table
        self._loaded: dict[tuple[str, int], pa.Table] = {}
        self._indices: dict[tuple[str, int], VersionIndex] = {}
        self._running = threading.Lock()

    def table(self, view: str, version_us: int) -> pa.Table:
        """The content of one version: entity columns and features, one row per entity.

        Raises:
            StoreError: it cannot be computed: an offline table is not there, or does not fit. That is no request's
                fault, so none is turned away for it: whoever asks ends, and goes on when the table is right. Or it is
                not there, and nothing is to be written.
            DefinitionError: two rows have the same key.
        """
        with self._running:
            key = (view, version_us)
            if key not in self._loaded:
                stored = self._stored(view, version_us)
                self._loaded[key] = self._run(view, version_us) if stored is None else stored
                while len(self._loaded) > _VERSIONS_IN_MEMORY:
                    self._loaded.pop(next(iter(self._loaded)))
            return self._loaded[key]

    def stored(self, needed: Iterable[tuple[str, int]], each: ForEach = map) -> StoredVersions:
        """The ``needed`` versions of views, materialised, as a value that other processes can be sent.

        Those that are missing are made by ``each``, as drafts: what it gives back is kept and registered here.

        Raises:
            StoreError, DefinitionError: as :meth:`table`.
        """
        wanted = sorted(set(needed))
        found = {}
        for view in sorted({view for view, _ in wanted}):
            for version in self._registry.versions(view):
                found[view, version.version_us] = version.path
        missing = [which for which in wanted if which not in found]
        for which, made in zip(missing, each(self._making(missing), missing) if missing else (), strict=True):
            self._offline.keep(made.draft, _path(*which))
            self._registry.add_version(BatchVersion(*which, _path(*which), made.rows))
            found[which] = _path(*which)
        return StoredVersions(self._offline, {which: found[which] for which in wanted})

    def lookup(self, view: str, candidates: pa.Table, time_column: str = "request_time") -> pa.Table:
        """The view's feature columns for each candidate row, as of its ``time_column``; NULL for unknown entities."""
        return lookup_by_version(self._views[view], candidates, lambda version: self._index(view, version), time_column)

    def _index(self, view: str, version_us: int) -> VersionIndex:
        table = self.table(view, version_us)
        with self._running:
            key = (view, version_us)
            if key not in self._indices:
                self._indices[key] = VersionIndex(self._views[view], table)
                while len(self._indices) > _INDICES_IN_MEMORY:
                    self._indices.pop(next(iter(self._indices)))
            return self._indices[key]

    def _stored(self, view: str, version_us: int) -> pa.Table | None:
        for version in self._registry.versions(view):
            if version.version_us == version_us:
                return self._offline.read(version.path)
        return None

    def _run(self, view: str, version_us: int) -> pa.Table:
        result = self._making([(view, version_us)]).table(view, version_us)
        self._offline.write(_path(view, version_us), result)
        self._registry.add_version(BatchVersion(view, version_us, _path(view, version_us), result.num_rows))
        return result

    def _making(self, missing: Sequence[tuple[str, int]]) -> _Making:
        if self._load_table is None:
            view, version_us = missing[0]
            raise StoreError(f"batch view {view} has no version {version_us} yet; a worker makes it when it needs it")
        return _Making(self._views, self._offline, self._load_table)


class _Made(NamedTuple):
    """The draft of a version's file, complete and not yet in place, and its rows."""

    draft: str
    rows: int


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes versions, wherever it is called: a draft that nobody keeps is no version."""

    views: Mapping[str, BatchView]
    offline: OfflineStore
    load_table: Callable[[Table], pa.Table]

    def table(self, view: str, version_us: int) -> pa.Table:
        try:
            return run_batch_view(self.views[view], version_us, self.load_table)
        except WireError as error:
            raise StoreError(f"batch view {view} cannot be computed: {error}") from error

    def __call__(self, which: tuple[str, int]) -> _Made:
        result = self.table(*which)
        with self.offline.drafting(_path(*which), result.schema) as (draft, writer):
            writer.write_table(result)
        return _Made(draft, result.num_rows)


def _path(view: str, version_us: int) -> str:
    return f"batch/{view}/{version_us}.parquet"


@dataclass(frozen=True, slots=True)
class StoredVersions:
    """Versions that are in the offline store, by view and version: what a process without a registry reads."""

    offline: OfflineStore
    paths: Mapping[tuple[str, int], str]

    def table(self, view: str, version_us: int) -> pa.Table:
        """The content of one version.

        Raises:
            StoreError: it is not there.
        """
        if (view, version_us) not in self.paths:
            raise StoreError(f"batch view {view}: version {version_us} is not among those that were sent along")
        return self.offline.read(self.paths[view, version_us])
