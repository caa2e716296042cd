"""Batch views by version: run on their schedule, readable as of any time.

A view has a version for every multiple of its schedule's interval since 1970-01-01 UTC. The version for V sees the rows
of its offline tables with ``available_at <= V`` and no others, so its content is a function of V: running it early,
late or twice gives the same. A request at T reads the newest version at or before T.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from dovetail.features.batch.views import VersionIndex, lookup_by_version, run_batch_view
from dovetail.features.plan.definitions import BatchView, Table
from dovetail.platform.errors import StoreError, WireError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import BatchVersion, Registry

__all__ = ["BatchVersions", "StoredVersions"]

_VERSIONS_IN_MEMORY = 32
#: Requests come for the newest version or two of each view, samples for those a label window older.
_INDICES_IN_MEMORY = 16


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

    def stored(self, needed: Iterable[tuple[str, int]]) -> StoredVersions:
        """The ``needed`` versions of views, materialised, as a value that other processes can be sent.

        Raises:
            StoreError, DefinitionError: as :meth:`table`.
        """
        wanted = set(needed)
        for view, version_us in sorted(wanted):
            self.table(view, version_us)
        found = {}
        for view in sorted({view for view, _ in wanted}):
            for version in self._registry.versions(view):
                if (view, version.version_us) in wanted:
                    found[view, version.version_us] = version.path
        return StoredVersions(self._offline, found)

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
        if self._load_table is None:
            raise StoreError(f"batch view {view} has no version {version_us} yet; a worker makes it when it needs it")
        try:
            result = run_batch_view(self._views[view], version_us, self._load_table)
        except WireError as error:
            raise StoreError(f"batch view {view} cannot be computed: {error}") from error
        path = f"batch/{view}/{version_us}.parquet"
        self._offline.write(path, result)
        self._registry.add_version(BatchVersion(view, version_us, path, result.num_rows))
        return result


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
