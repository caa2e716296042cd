"""The registry: which files hold which rows, what they were made with, and how far each archive has come.

A file exists for Dovetail when its row is here. Files are written first and registered in the transaction that moves
the archive's position, so a reader that goes by the registry never sees a row twice or half a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import pyarrow as pa
import sqlalchemy as sa

from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.answered_calls import AnsweredCalls
from dovetail.platform.stores.registry.archived.file_marks import FileMarks
from dovetail.platform.stores.registry.archived.window_log import WindowLog
from dovetail.platform.stores.registry.archived.window_sketches import WindowChange
from dovetail.platform.stores.registry.asked import ASKED
from dovetail.platform.stores.registry.definition_log import (
    BackfillDay,
    DefinitionRecord,
    DefinitionUse,
)
from dovetail.platform.stores.registry.event_ids import RegistryEvents
from dovetail.platform.stores.registry.given_verdicts import Verdict
from dovetail.platform.stores.registry.label_settings import LabelSettings
from dovetail.platform.stores.registry.model_metrics import MetricRow
from dovetail.platform.stores.registry.ranked import RankingRow
from dovetail.platform.stores.registry.remembered import RememberedRequest, RequestMemory
from dovetail.platform.stores.registry.resent import Resent
from dovetail.platform.stores.registry.results.joined_files import JoinLog
from dovetail.platform.stores.registry.tables import registry_tables
from dovetail.platform.stores.sql.alone import alone
from dovetail.platform.stores.sql.committed import Committed
from dovetail.platform.stores.sql.database import Database, scheme_of

__all__ = ["BatchVersion", "DataFile", "MetricRow", "Registry"]


class DataFile(NamedTuple):
    """A Parquet file of a dataset: ``rows`` rows of one UTC ``day`` (``YYYY-MM-DD``), and the offsets it came from."""

    dataset: str
    day: str
    path: str
    rows: int
    partition: int
    first_offset: int
    last_offset: int


class BatchVersion(NamedTuple):
    """A batch view's result as of ``version_us`` (microseconds since 1970-01-01 UTC)."""

    view: str
    version_us: int
    path: str
    rows: int


class Registry:
    """Files, batch versions, metrics, and the progress of stages that keep no state of their own. Thread-safe."""

    def __init__(self, url: str, owner: str = "", *, read_only: bool = False) -> None:
        """At a SQLAlchemy URL; ``owner`` is the project that it belongs to, ``read_only`` as in :class:`Database`."""
        tables = registry_tables(scheme_of(url))
        self._ledger, self._definitions, self._label_settings = tables.ledger, tables.definitions, tables.label_settings
        self._asked, self._refused, self._remembered = tables.asked, tables.refused, tables.remembered
        self._resent, self._rankings, self._verdicts = tables.resent, tables.rankings, tables.verdicts
        self._files, self._marks, self._sketches = tables.files, tables.marks, tables.sketches
        self._versions, self._metrics = tables.versions, tables.metrics
        self._database = Database(url, tables.metadata, owner, read_only=read_only)
        self._committed = Committed(self._database, self._ledger)
        #: The ids of events within their windows, and which rows repeat others.
        self.events = RegistryEvents(tables.event_ids, self._database, self._committed)
        #: Archived rows by window, sketched.
        self.windows = WindowLog(self._sketches, self._database)
        #: The files of joins.
        self.joins = JoinLog(tables.joined, self._database)
        #: Answers of the HTTP API to calls with a key.
        self.calls = AnsweredCalls(tables.calls, self._database)

    def progress(self, scope: str) -> Mapping[int, Progress]:
        """How far the reader ``scope`` has come, by partition."""
        return self._committed.progress(scope)

    def commit(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        accounts: Sequence[Account],
        files: Sequence[DataFile] = (),
        marks: Sequence[FileMarks] = (),
        windows: WindowChange | None = None,
        uses: Sequence[DefinitionUse] = (),
        asked: pa.Table | None = None,
        memory: RequestMemory | None = None,
    ) -> None:
        """Register files and what they were made with, credit accounts and move a position, all or nothing.

        ``marks`` are of ``files``, of all or some; ``windows`` sketch the rows in them.
        ``asked``: requests (ASKED) to remember by user; ``memory``: of this partition, to remember by id.

        Raises:
            StaleCommit: the stored position is not the expected one.
        """

        def work(connection: sa.Connection) -> None:
            if files:
                connection.execute(sa.insert(self._files), [file._asdict() for file in files])
            self._marks.add(connection, marks)
            if windows is not None:
                self._sketches.change(connection, self._database, windows)
            self._definitions.use(connection, self._database, uses)
            if asked is not None:
                self._asked.add(connection, asked)
            if memory is not None:
                self._remembered.change(connection, self._database, partition, memory)
            self._ledger.credit(connection, self._database, accounts)

        self._committed.transact(scope, partition, expected, progress, work)

    def asked(self, users: Sequence[str], low_us: int, high_us: int) -> pa.Table:
        """The remembered requests (ASKED) of these users with ``low_us <= request time <= high_us``."""
        if not users:
            return ASKED.empty_table()
        with self._database.read() as connection:
            return self._asked.of_users(connection, users, low_us, high_us)

    def remembered(
        self, partition: int, request_ids: Sequence[str], scene: str = ""
    ) -> Mapping[str, RememberedRequest]:
        """The requests of a partition of a scene that are remembered by these ids."""
        with self._database.read() as connection:
            return self._remembered.of(connection, partition, request_ids, scene)

    def forget_asked(self, before_us: int) -> int:
        """Forget requests older than that; returns how many."""
        return self._database.transact(lambda connection: self._asked.forget(connection, before_us))

    def refuse(self, topic: str, partition: int, reasons: Mapping[int, str]) -> None:
        """Refuse messages from outside, by offset, for good; one that is refused keeps its first reason."""
        rows = [(topic, partition, offset, reason) for offset, reason in sorted(reasons.items())]
        if rows:
            self._database.transact(lambda connection: self._refused.add(connection, self._database, rows))

    def refused(self, topic: str, partition: int) -> Mapping[int, str]:
        """The refusals of a partition: the reasons by offset."""
        with self._database.read() as connection:
            return self._refused.of(connection, topic, partition)

    def refused_rows(self, dataset: str) -> list[tuple[int, int]]:
        """Partition and offset of refused messages of an archived topic: rows of theirs in the archive do not count."""
        with self._database.read() as connection:
            topics = self._ledger.topics(connection, f"archive.{dataset}")
            return self._refused.positions(connection, topics) if topics else []

    def resent(self) -> Mapping[int, Resent]:
        """The dead letters that were sent again, or may have been, by their offset in the dead-letter topic."""
        with self._database.read() as connection:
            return self._resent.all(connection)

    def put_resent(self, letters: Mapping[int, Resent]) -> None:
        """Remember of letters, by offset, how far sending them again has come; in the place of what was known."""
        if letters:
            self._database.transact(lambda connection: self._resent.put(connection, self._database, letters))

    def alone(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the registry for ``purpose``, a short word, which no two processes may do at once.

        Raises:
            StoreError: when it is entered: another process does it now.
        """
        return alone(self._database, purpose)

    def add_verdict(self, verdict: Verdict) -> None:
        """Keep a verdict; of each kind the last 200 are."""
        self._database.transact(lambda connection: self._verdicts.add(connection, verdict))

    def verdicts(self, kind: str, limit: int) -> list[Verdict]:
        """The newest verdicts of a kind, the newest first."""
        with self._database.read() as connection:
            return self._verdicts.newest(connection, kind, limit)

    def files(self, dataset: str) -> list[DataFile]:
        """The files of ``dataset``, by day, partition and first offset."""
        columns = self._files.c
        ordered = (
            sa.select(*(columns[name] for name in DataFile._fields))
            .where(columns.dataset == dataset)
            .order_by(columns.day, columns.partition, columns.first_offset)
        )
        with self._database.read() as connection:
            return [DataFile(*row) for row in connection.execute(ordered)]

    def file_spans(self, dataset: str) -> Mapping[str, tuple[int, int]]:
        """The first and the last time (µs) in a file of ``dataset``, by path; files of older versions are not told."""
        with self._database.read() as connection:
            return self._marks.spans(connection, dataset)

    def key_filters(self, dataset: str, column: str) -> list[tuple[str, bytes]]:
        """The filters of keys in ``column``, by path, of the files of ``dataset`` that have one."""
        with self._database.read() as connection:
            return self._marks.filters(connection, dataset, column)

    def add_version(self, version: BatchVersion) -> None:
        """Register a batch version; the same version again replaces it (its content is a function of its time)."""
        insert = self._database.insert(self._versions)
        upsert = insert.on_conflict_do_update(
            index_elements=["view", "version_us"], set_={"path": insert.excluded.path, "rows": insert.excluded.rows}
        )
        with self._database.write() as connection:
            connection.execute(upsert, version._asdict())

    def versions(self, view: str) -> list[BatchVersion]:
        """The versions of ``view``, oldest first."""
        columns = self._versions.c
        ordered = (
            sa.select(*(columns[name] for name in BatchVersion._fields))
            .where(columns.view == view)
            .order_by(columns.version_us)
        )
        with self._database.read() as connection:
            return [BatchVersion(*row) for row in connection.execute(ordered)]

    def definitions(self) -> dict[str, DefinitionRecord]:
        """Every registered definition by name."""
        with self._database.read() as connection:
            return self._definitions.definitions(connection)

    def put_definitions(
        self,
        records: Sequence[DefinitionRecord],
        known: Mapping[str, DefinitionRecord],
        renamed: Mapping[str, tuple[str, str]] | None = None,
    ) -> Sequence[str]:
        """Register definitions, all or none: a compare-and-set on what :meth:`definitions` said before.

        ``renamed``: of definitions that mean what they meant under another fingerprint, that one and the one they have
        now; their uses are noted under it from now on. Whether ``known`` may be replaced is the caller's to know.
        Returns the names that others have registered with another meaning since; when there are any, nothing was
        changed.
        """
        with self._database.write() as connection:
            lost = self._definitions.put(connection, self._database, records, known)
            if lost:
                connection.rollback()
            else:
                self._definitions.rename(connection, renamed or {})
        return lost

    def label_settings(self) -> list[LabelSettings]:
        """The settings of labels that were ever in force, by number."""
        with self._database.read() as connection:
            return self._label_settings.settings(connection)

    def add_label_settings(self, fingerprint: int, text: str) -> None:
        """Add settings of labels, under the next number; those that are there keep theirs."""
        add = self._label_settings.add
        while not self._database.transact(lambda connection: add(connection, self._database, fingerprint, text)):
            pass

    def label_logs(self) -> Mapping[str, str]:
        """How each kind of labels is read, as registered, by kind."""
        with self._database.read() as connection:
            return self._label_settings.logs(connection)

    def put_label_logs(self, texts: Mapping[str, str], known: Mapping[str, str]) -> Sequence[str]:
        """Register how kinds are read, all or none, where :meth:`label_logs` still says what is ``known``.

        Returns the kinds of which others say otherwise since; when there are any, nothing was changed.
        """
        with self._database.write() as connection:
            lost = self._label_settings.put_logs(connection, self._database, texts, known)
            if lost:
                connection.rollback()
        return lost

    def uses(self) -> list[DefinitionUse]:
        """The datasets and days made with each definition."""
        with self._database.read() as connection:
            return self._definitions.uses(connection)

    def backfill(self, out: str) -> tuple[str | None, Mapping[str, BackfillDay]]:
        """The backfill into ``out`` as it was asked for (None: there is none), and the days that are done."""
        with self._database.read() as connection:
            return self._definitions.backfill(connection, out)

    def begin_backfill(self, out: str, job: str) -> None:
        """Note what is backfilled into ``out``."""
        with self._database.write() as connection:
            self._definitions.begin_backfill(connection, self._database, out, job)

    def finish_backfill_day(self, day: BackfillDay, uses: Sequence[DefinitionUse]) -> None:
        """Note a day of a backfill as done, and what it was made with, in one transaction."""
        with self._database.write() as connection:
            self._definitions.finish_day(connection, self._database, day)
            self._definitions.use(connection, self._database, uses)

    def add_metrics(self, rows: Sequence[MetricRow]) -> None:
        """Store metrics; the same model, scope and ``trained`` again replaces them."""
        if not rows:
            return
        self._database.transact(lambda connection: self._metrics.add(connection, self._database, rows))

    def add_rankings(self, rows: Sequence[RankingRow]) -> None:
        """Store ranking metrics; the same model, scope and ``trained`` again replaces them."""
        if rows:
            self._database.transact(lambda connection: self._rankings.add(connection, self._database, rows))

    def rankings(self, model: str) -> list[RankingRow]:
        """The ranking metrics of ``model``, by samples trained on, then scope."""
        with self._database.read() as connection:
            return self._rankings.of(connection, self._database, model)

    def metrics(self, model: str) -> list[MetricRow]:
        """The metrics of ``model``, by samples trained on, then scope."""
        with self._database.read() as connection:
            return self._metrics.of(connection, self._database, model)

    def newest_metrics(self, model: str, scopes: str, most: int) -> list[MetricRow]:
        """The newest metrics of ``model`` whose scope begins with ``scopes``, ``most`` rows, by samples trained on."""
        with self._database.read() as connection:
            return self._metrics.newest(connection, self._database, model, scopes, most)

    def newest_rankings(self, model: str, scopes: str, most: int) -> list[RankingRow]:
        """The newest ranking metrics of ``model`` whose scope begins with ``scopes``; order as in newest_metrics."""
        with self._database.read() as connection:
            return self._rankings.newest(connection, self._database, model, scopes, most)

    def accounts(self) -> list[Account]:
        """The accounts kept with this store."""
        with self._database.read() as connection:
            return self._ledger.accounts(connection)

    def close(self) -> None:
        """Release connections."""
        self._database.close()
