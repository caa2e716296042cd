"""Tables of Iceberg and Delta with rows that were written in parts, deleted in part, and once called otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

__all__ = ["LAKES", "delta_table", "iceberg_table"]


def iceberg_table(folder: Path, rows: pa.Table, name: str = "rows") -> str:
    """The metadata file of a table that has ``rows``, in their order."""
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.types import StringType

    folder.mkdir(parents=True, exist_ok=True)
    catalog = SqlCatalog("lake", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=f"file://{folder}")
    catalog.create_namespace_if_not_exists("shop")
    half = rows.num_rows // 2
    first, old = rows.column_names[0], f"{rows.column_names[0]}_as_it_was"
    before = rows.slice(0, half).rename_columns([old, *rows.column_names[1:]])
    table = catalog.create_table(f"shop.{name}", before.schema)
    table.append(pa.concat_tables([before, before.slice(0, 3)]))
    table.overwrite(before)
    with table.update_schema() as update:
        update.rename_column(old, first)
        update.add_column("note", StringType())
    table.append(rows.slice(half).append_column("note", pa.array(["new"] * (rows.num_rows - half))))
    return str(catalog.load_table(f"shop.{name}").metadata_location).removeprefix("file://")


def delta_table(folder: Path, rows: pa.Table, name: str = "rows") -> str:
    """The folder of a table that has ``rows``, and had more; partitioned by the first half of them."""
    from deltalake import DeltaTable, write_deltalake

    where = str(folder / name)
    half = rows.num_rows // 2
    part = pa.array(["a"] * half + ["b"] * (rows.num_rows - half))
    parted = rows.append_column("half", part)
    extra = parted.slice(0, 3).set_column(rows.num_columns, "half", pa.array(["c"] * 3))
    write_deltalake(where, parted.slice(0, half), partition_by=["half"])
    write_deltalake(where, extra, mode="append")
    write_deltalake(where, parted.slice(half), mode="append")
    DeltaTable(where).delete("half = 'c'")
    return where


#: How a table of each format is made.
LAKES: dict[str, Callable[[Path, pa.Table], str]] = {"iceberg": iceberg_table, "delta": delta_table}
