"""The registry's tables, declared once in a process: SQLAlchemy takes longer for them than SQLite to open a file."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

from dovetail.platform.stores.registry.answered_calls import AnsweredCallTable
from dovetail.platform.stores.registry.archived.file_marks import FileMarksTables
from dovetail.platform.stores.registry.archived.window_sketches import WindowSketchTables
from dovetail.platform.stores.registry.asked import AskedTable
from dovetail.platform.stores.registry.definition_log import DefinitionTables
from dovetail.platform.stores.registry.event_ids import EventIdTables
from dovetail.platform.stores.registry.given_verdicts import VerdictTable
from dovetail.platform.stores.registry.label_settings import LabelSettingsTables
from dovetail.platform.stores.registry.model_metrics import MetricTables
from dovetail.platform.stores.registry.ranked import RankingTable
from dovetail.platform.stores.registry.refused import RefusedTable
from dovetail.platform.stores.registry.remembered import RememberedTable
from dovetail.platform.stores.registry.resent import ResentTable
from dovetail.platform.stores.registry.results.joined_files import JoinedFileTable
from dovetail.platform.stores.sql.ledger import Ledger

__all__ = ["RegistryTables", "registry_tables"]


class RegistryTables:
    """All tables of a registry, and the statements on them; of no database, so that all of one kind share them."""

    def __init__(self) -> None:
        self.metadata = metadata = sa.MetaData()
        self.ledger = Ledger(metadata)
        self.definitions = DefinitionTables(metadata)
        self.label_settings = LabelSettingsTables(metadata)
        self.asked = AskedTable(metadata)
        self.refused = RefusedTable(metadata)
        self.remembered = RememberedTable(metadata)
        self.resent = ResentTable(metadata)
        self.rankings = RankingTable(metadata)
        self.event_ids = EventIdTables(metadata)
        self.calls = AnsweredCallTable(metadata)
        self.verdicts = VerdictTable(metadata)
        self.joined = JoinedFileTable(metadata)
        self.files = sa.Table(
            "data_files",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("path", sa.Text, primary_key=True),
            sa.Column("day", sa.Text, nullable=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("partition", sa.Integer, nullable=False),
            sa.Column("first_offset", sa.BigInteger, nullable=False),
            sa.Column("last_offset", sa.BigInteger, nullable=False),
        )
        self.marks, self.sketches = FileMarksTables(metadata), WindowSketchTables(metadata)
        self.versions = sa.Table(
            "batch_versions",
            metadata,
            sa.Column("view", sa.Text, primary_key=True),
            sa.Column("version_us", sa.BigInteger, primary_key=True),
            sa.Column("path", sa.Text, nullable=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
        )
        self.metrics = MetricTables(metadata)


@cache
def registry_tables(scheme: str) -> RegistryTables:
    """Those of databases whose URL has ``scheme``: a statement is compiled for one dialect and driver."""
    del scheme
    return RegistryTables()
