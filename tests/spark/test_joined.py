"""``dovetail join`` on a cluster: the files of one machine, byte for byte, whatever order logs came in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dovetail.cli.stored import join
from dovetail.spark.cluster import Cluster
from tests.app.small_project import run, write_project
from tests.seeds import SEEDS
from tests.spark.in_process import InProcess


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was lived through: clicks that name no request, late ones, two lanes."""
    folder = tmp_path_factory.mktemp("lived") / "project"
    write_project(folder)
    run(folder)
    return folder


def joined(folder: Path, out: Path, cluster: Cluster | None, *, compare: bool = False) -> dict[str, bytes]:
    """The files that the command writes, by name, drafts included."""

    @contextmanager
    def opened(*_: object) -> Iterator[Cluster | None]:
        yield cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(join, "cluster_of", opened)
        assert join.run(folder, str(out), "", compare=compare, as_json=True) == 0
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", [None, *range(SEEDS)])
def test_the_files_are_those_of_one_machine(lived: Path, tmp_path: Path, seed: int | None) -> None:
    expected = joined(lived, tmp_path / "local", None)
    assert sum(pq.read_metadata(tmp_path / "local" / name).num_rows for name in expected) == 7
    assert joined(lived, tmp_path / "cluster", InProcess(seed), compare=True) == expected
