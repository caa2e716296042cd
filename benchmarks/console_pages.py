"""Server time of each page of the console on 10^6 archived snapshot rows in some thousand small files.

    python -m benchmarks.console_pages [--rows 1000000] [--file-rows 450] [--calls 12] [--keep DIR]

A run of the demo is archived in small files, and these are copied under other requests and users until there are as
many rows. Then pages are asked for as a browser would, without a socket: of requests drawn from all copies, the first
one cold. Milliseconds are of the clock, and of the processor, which a busy machine does not lengthen. The same once
more with what the registry has noted of the files removed, as archives of older versions have it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dovetail.api.tokens import Tokens
from dovetail.app.datasets import datasets
from dovetail.app.storage import Stores, open_stores
from dovetail.console.access import Guard
from dovetail.console.looked import looking_at
from dovetail.console.site import site
from dovetail.demo.kept_run import project_of_run
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.features import Project
from dovetail.platform.archive.file_index import marks_of_file
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.store import DataFile

NAMED = ("request_id", "user_id")
PAGES = ("/flow", "/definitions", "/lineage", "/sample", "/model", "/experiments", "/trust")


def copied(rows: pa.Table, copy: int, offsets: int, sources: int) -> pa.Table:
    """``rows`` under other names of requests and users, and at other offsets."""
    for number, name in enumerate(rows.column_names):
        column = rows.column(name).combine_chunks()
        if name in NAMED:
            column = other(column, copy)
        elif pa.types.is_struct(column.type) and {*NAMED} & {field.name for field in column.type}:
            parts = [
                other(part, copy) if field.name in NAMED else part
                for field, part in zip(
                    column.type, (column.field(i) for i in range(column.type.num_fields)), strict=True
                )
            ]
            column = pa.StructArray.from_arrays(parts, fields=list(column.type), mask=column.is_null())
        elif name in ("_offset", "_source_offset"):
            column = pc.add(column, (offsets if name == "_offset" else sources) * copy)
        else:
            continue
        rows = rows.set_column(number, rows.schema.field(number), column)
    return rows


def other(names: pa.Array, copy: int) -> pa.Array:
    """Each name with the number of the copy behind it."""
    return pc.binary_join_element_wise(names.cast(pa.string()), f"c{copy}", "-").cast(names.type)


def multiply(project: Project, stores: Stores, rows: int) -> None:
    """Copy the archive until there are ``rows`` snapshots."""
    base = {dataset.name: stores.registry.files(dataset.name) for dataset in datasets(project)}
    spans = {name: max((f.last_offset + 1 for f in files), default=0) for name, files in base.items()}
    there = sum(file.rows for file in base["snapshots"])
    tables = {file.path: stores.offline.read(file.path) for files in base.values() for file in files}
    copies = -(-rows // there) - 1
    for dataset in datasets(project):
        if dataset.name == "dead_letters":
            continue
        for partition in sorted({file.partition for file in base[dataset.name]}):
            scope, files, marks = f"archive.{dataset.name}", [], []
            for copy in range(1, copies + 1):
                for file in (f for f in base[dataset.name] if f.partition == partition):
                    added = copied(tables[file.path], copy, spans[dataset.name], spans["snapshots"])
                    path = file.path.replace(".parquet", f"-c{copy}.parquet")
                    moved = copy * spans[dataset.name]
                    stores.offline.write(path, added)
                    files.append(
                        DataFile(
                            dataset.name, file.day, path, file.rows, partition,
                            file.first_offset + moved, file.last_offset + moved,
                        )
                    )  # fmt: skip
                    marks.append(marks_of_file(dataset.name, path, added, dataset.day_of, dataset.keys))
            before = stores.registry.progress(scope)[partition]
            end = spans[dataset.name] * (copies + 1)
            stores.registry.commit(
                scope, partition, expected=before.next_offset, accounts=[], files=files, marks=marks,
                progress=Progress(end, before.watermark_us, before.timestamp_ms, before.sources),
            )  # fmt: skip


async def visited(project: Project, requests: list[str]) -> dict[str, list[tuple[float, float]]]:
    """By page, the seconds that each answer took by the clock and of the processor; links lead to a request's pages."""
    taken: dict[str, list[tuple[float, float]]] = {}
    stores = open_stores(project.config, read_only=True)
    with closing(stores):
        async with looking_at(project, stores) as looked:
            app = site(looked, Guard(Tokens({}), ConsoleConfig()))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8090") as client:

                async def page(address: str) -> str:
                    began, processor = time.perf_counter(), time.process_time()
                    answer = await client.get(address)
                    seconds = time.perf_counter() - began, time.process_time() - processor
                    name = address.split("?")[0] + ("?id" if "id=" in address else "")
                    taken.setdefault(name, []).append(seconds)
                    assert answer.status_code == 200, answer.text
                    return answer.text

                for number, request in enumerate(requests):
                    said = await page(f"/sample?id={request}")
                    candidate = await page(linked(said, "/candidate?"))
                    await page(linked(candidate, "feature=user_events_log_7d"))
                    if number < 3:
                        for address in PAGES:
                            await page(address)
    return taken


def linked(page: str, words: str) -> str:
    """The first link of a page whose address has ``words``."""
    return next(link for link in map(unescape, re.findall(r'href="([^"]+)"', page)) if words in link)


def drawn(stores: Stores, calls: int) -> Iterator[str]:
    """Requests out of different files."""
    files = stores.registry.files("snapshots")
    for file in random.Random(3).sample(files, calls):
        ids = pc.unique(stores.offline.read(file.path, ["request_id"]).column(0)).to_pylist()
        yield ids[len(ids) // 2]


def forget_marks(project: Project) -> None:
    """Remove what the registry has noted of files."""
    path = project.config.path(project.config.storage.url("registry").removeprefix("sqlite:///"))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for table in ("file_spans", "file_filters"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    engine.dispose()


def shown(taken: dict[str, list[tuple[float, float]]]) -> None:
    """Print milliseconds by page."""
    print("                        by the clock                 of the processor")
    for name, seconds in sorted(taken.items()):
        ms = np.array(seconds) * 1e3
        said = (f"first {each[0]:6.0f}  median {np.median(each):6.0f}  most {each.max():6.0f}" for each in ms.T)
        print(f"  {name:14}", *said)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--file-rows", type=int, default=450)
    parser.add_argument("--calls", type=int, default=12)
    parser.add_argument("--keep", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if not (folder / "settings.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            log = replace(simulate(SimulatorConfig(seed=11, requests=600, days=1)), slice_us=15 * 60_000_000)
            overrides = {"archive": {"max_rows": given.file_rows}, "model": {"publish_every": 400}}
            asyncio.run(run_demo(log, folder, on_progress=lambda _: None, overrides=overrides))
            with closing(open_stores(project_of_run(folder).config)) as stores:
                multiply(project_of_run(folder), stores, given.rows)
        project = project_of_run(folder)
        with closing(open_stores(project.config, read_only=True)) as stores:
            files = {dataset.name: stores.registry.files(dataset.name) for dataset in datasets(project)}
            requests = list(drawn(stores, given.calls))
        rows = sum(file.rows for file in files["snapshots"])
        print(f"{rows:,} snapshot rows, {sum(map(len, files.values())):,} files of all datasets")
        print("with what the registry notes of files")
        shown(asyncio.run(visited(project, requests)))
        if given.keep is None:
            forget_marks(project)
            print("without")
            shown(asyncio.run(visited(project, requests[:4])))


if __name__ == "__main__":
    main()
