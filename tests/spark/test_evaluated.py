"""``dovetail evaluate`` on a cluster: every prediction and metric has the bits of one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.cli.models import evaluate
from dovetail.cli.models.evaluate import Evaluated, evaluate_model
from dovetail.features.stored.day_engine import DayEngine
from dovetail.platform.errors import WireError
from dovetail.spark import SparkDays
from tests.cli.trained_project import PROJECT, call, samples
from tests.generated import tries
from tests.spark.in_process import InProcess


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


def trained(folder: Path) -> Path:
    """A project with a model."""
    (folder / "dovetail.toml").write_text(PROJECT, encoding="utf-8")
    pq.write_table(samples(), folder / "s.parquet")
    call("train", "-p", folder, folder / "s.parquet", "--out", folder / "m")
    return folder


def evaluated(project: Path, names: list[str], engine: DayEngine | None = None, **choices: Any) -> Evaluated:
    with pytest.MonkeyPatch.context() as patched:
        if engine is not None:

            @contextmanager
            def opened(*_: object) -> Iterator[DayEngine]:
                yield engine

            patched.setattr(evaluate, "day_engine", opened)
        return evaluate_model(project, str(project / "m"), names, **choices)


def same(mine: Evaluated, theirs: Evaluated) -> bool:
    bits = [np.array_equal(a.view(np.int32), b.view(np.int32)) for a, b in zip(mine[3:], theirs[3:], strict=True)]
    return all(bits) and repr(mine[:3]) == repr(theirs[:3])


@settings(max_examples=tries(8), deadline=None)
@given(
    cuts=st.lists(st.integers(0, 600), max_size=4),
    groups=st.integers(20, 700),
    slices=st.sampled_from([[], ["city"]]),
    day=st.sampled_from([None, "2024-10-05"]),
    seed=st.none() | st.integers(0, 9),
)
def test_the_numbers_are_those_of_one_process(
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    groups: int,
    slices: list[str],
    day: str | None,
    seed: int | None,
) -> None:
    folder, edges = tmp_path_factory.mktemp("cut"), [0, *sorted(cuts), 600]
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        pq.write_table(samples().slice(first, last - first), folder / f"{number}.parquet", row_group_size=groups)
    given_: dict[str, Any] = {"slices": slices, "first": day, "at": 3}
    expected = evaluated(project, [str(folder)], **given_)
    assert expected.total.samples
    assert same(evaluated(project, [str(folder)], SparkDays(InProcess(seed)), **given_), expected)
    url = f"file://{folder}"
    assert same(evaluated(project, [url], SparkDays(InProcess(seed)), **given_), evaluated(project, [url], **given_))


def test_what_is_wrong_with_a_file_arrives(project: Path, tmp_path: Path) -> None:
    pq.write_table(samples().drop_columns(["city"]), tmp_path / "s.parquet")
    with pytest.raises(WireError) as here:
        evaluated(project, [str(tmp_path)])
    with pytest.raises(WireError) as there:
        evaluated(project, [str(tmp_path)], SparkDays(InProcess()))
    assert str(there.value) == str(here.value)
