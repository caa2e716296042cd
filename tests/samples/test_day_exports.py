"""Samples exported by day: whole files, gone on with after a stop, written again where more was archived."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.cli import main
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.shared import shared_name, spread
from dovetail.samples import day_exports
from dovetail.samples.day_exports import SampleExport, export_samples
from dovetail.samples.tensors import Columns
from tests.samples.sample_worlds import World

DAYS = ["2024-01-01", "2024-01-02", "2024-01-03"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "project")
    world.send([(number % 2, 1 + number % 3, number % 5 == 0) for number in range(20)])
    world.archive(20, 4)
    yield world
    world.close()


def rows_in(out: Path) -> list[tuple[str, int]]:
    tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    rows = pa.concat_tables(tables)
    return list(zip(rows.column("request_id").to_pylist(), rows.column("item_id").to_pylist(), strict=True))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_each_sample_is_in_the_file_of_its_day_once(world: World, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    done = export_samples(
        world.project, SampleExport(), tmp_path / "out", on_day=lambda day, n, of: told.append((day.day, n, of))
    )
    assert sorted(rows_in(tmp_path / "out")) == sorted(world.expected)
    assert told == [(day, number, 3) for number, day in enumerate(DAYS, start=1)]
    assert [day.rows for day in done] == [
        pq.read_metadata(tmp_path / "out" / f"{day}.parquet").num_rows for day in DAYS
    ]
    first = pq.read_table(tmp_path / "out" / "2024-01-01.parquet")
    assert {str(at)[:10] for at in first.column("request_time").to_pylist()} == {"2024-01-01"}


def test_days_columns_and_a_condition_choose(world: World, tmp_path: Path) -> None:
    day_two, where = ("2024-01-02", "2024-01-02"), "label = 1 AND item_id = 0"
    asked = SampleExport(days=day_two, where=where, names=("item_id", "label"))
    [day] = export_samples(world.project, asked, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "2024-01-02.parquet")
    assert table.column_names == ["item_id", "label"]
    assert (set(table.column("item_id").to_pylist()), set(table.column("label").to_pylist())) == ({0}, {1})
    assert day.rows == table.num_rows > 0


@pytest.mark.parametrize("form", ["parquet", "libsvm", "tfrecord"])
def test_killed_anywhere_it_goes_on_and_ends_as_undisturbed(
    world: World, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SampleExport(form, columns=Columns(dense=["item_id"], sparse=["request_id"], bits=8))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    export_samples(world.project, asked, whole)
    batches, left = day_exports._batches, 0

    def dying(*args: Any) -> Iterator[pa.Table]:
        nonlocal left
        for batch in batches(*args):
            for part in (batch.slice(0, 2), batch.slice(2)):
                left -= 1
                if left < 0:
                    raise ZeroDivisionError
                yield part

    for steps in (0, 1, 3, 3, 100):
        left = steps
        with monkeypatch.context() as patched:
            patched.setattr(day_exports, "_batches", dying)
            if steps < 100:
                with pytest.raises(ZeroDivisionError):
                    export_samples(world.project, asked, killed)
                assert not [name for name in contents(killed) if name not in contents(whole) and "partial" not in name]
            else:
                done = export_samples(world.project, asked, killed)
    assert [day.fresh for day in done] == [False, False, True]
    if form == "parquet":  # in row groups of other sizes
        assert rows_in(killed) == rows_in(whole)
    else:
        assert contents(killed) == contents(whole)
    assert not list(killed.glob("*.partial"))


def test_days_that_have_changed_are_written_again_and_no_others(world: World, tmp_path: Path) -> None:
    asked, out = SampleExport(), tmp_path / "out"
    export_samples(world.project, asked, out)
    assert [day.fresh for day in export_samples(world.project, asked, out)] == [False] * 3
    (out / "2024-01-02.parquet").unlink()
    assert [day.fresh for day in export_samples(world.project, asked, out)] == [False, True, False]
    world.send([(0, 2, False)] * 4)
    world.archive(20, 4)
    again = export_samples(world.project, asked, out)
    assert [day.fresh for day in again] == [False, False, True, True]
    assert sorted(rows_in(out)) == sorted(world.expected)


def test_lists_that_candidates_share_are_in_parquet_once_or_in_each_row(world: World, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"where": "item_id <> 1 OR history IS NULL", "names": ("request_id", "item_id", "history")}
    export_samples(world.project, SampleExport(**asked), tmp_path / "flat")
    done = export_samples(world.project, SampleExport(**asked, per_request=True), tmp_path / "once")
    for day in done:
        assert day.path is not None
        flat, once = pq.read_table(tmp_path / "flat" / day.path.name), pq.read_table(day.path)
        assert spread(once).select(flat.column_names).to_pylist() == flat.to_pylist()
    assert shared_name("history") in once.column_names
    with pytest.raises(ConfigError, match="has an export with another per_request"):
        export_samples(world.project, SampleExport(**asked, per_request=True), tmp_path / "flat")
    with pytest.raises(ConfigError, match="per_request is for Parquet"):
        export_samples(world.project, SampleExport("libsvm", per_request=True), tmp_path / "other")


def test_misuse_is_told(world: World, tmp_path: Path) -> None:
    export_samples(world.project, SampleExport(), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has an export with another columns, form: give a folder of its own"):
        export_samples(world.project, SampleExport("libsvm", columns=Columns(dense=["item_id"])), tmp_path / "out")
    for asked, why in (
        (SampleExport(names=("item",)), "there is no column 'item' in samples"),
        (SampleExport(where="item = 1"), "--where 'item = 1'"),
        (SampleExport(target="other"), "target 'other' is not declared"),
    ):
        with pytest.raises(ConfigError, match=why):
            export_samples(world.project, asked, tmp_path / str(why)[:5])


def test_a_day_of_two_schemas_has_the_wider_one(tmp_path: Path) -> None:
    batches = [
        pa.table({"n": pa.array([1], pa.int32())}),
        pa.table({"n": pa.array([1 << 40], pa.int64()), "m": ["x"]}),
        pa.table({"n": pa.array([3], pa.int32())}),
    ]
    assert day_exports._write_parquet(lambda: iter(batches), tmp_path / "day.parquet") == 3
    assert pq.read_table(tmp_path / "day.parquet").to_pylist() == [
        {"n": 1, "m": None},
        {"n": 1 << 40, "m": "x"},
        {"n": 3, "m": None},
    ]


@pytest.fixture
def dovetail(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dovetail", "export", *arguments, "-p", str(world.folder)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, " ".join(printed.err.split())

    return run


def test_the_command(dovetail: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    made = ("--format", "libsvm", "--dense", "item_id", "--sparse", "request_id", "--from-day", "2024-01-02")
    code, said, _ = dovetail(out, *made)
    assert code == 0
    assert said.splitlines()[0].startswith("2024-01-02: ")
    assert "(1 of 2 days)" in said
    code, said, _ = dovetail(out, *made, "--json")
    answer = json.loads(said)
    assert [day["new"] for day in answer["days"]] == [False, False]
    assert answer["rows"] == sum(len(Path(day["path"]).read_text().splitlines()) for day in answer["days"])
    for wrong, why in (
        (("--format", "csv"), "--format 'csv': choose from parquet, libsvm, tfrecord"),
        (("--format", "libsvm"), "say by --dense, --sparse or --sequence"),
        (("--format", "libsvm", "--dense", "item_id", "--per-request"), "--per-request is for Parquet"),
        (("--dense", "item_id"), "name --columns for Parquet"),
        (("--from-day", "soon"), "--from-day 'soon': write a day"),
        (("--format", "tfrecord", "--sequence", "a:b"), "--sequence 'a:b': write COLUMN"),
    ):
        code, _, err = dovetail(str(tmp_path / "other"), *wrong)
        assert code == 2
        assert why in err
