"""Squares of every argument that is taken: variance and deviation are the same in both engines, and right."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import isclose, sqrt
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features import Project, load
from tests.features.parity.replay import bits
from tests.features.parity.test_names import written
from tests.generated import tries

TYPES = [(9, 2), (10, 0), (10, 3), (12, 2), (14, 0), (14, 2), (14, 14)]


def project_of(folder: Path, precision: int, scale: int) -> Project:
    project = written(folder, ("x",), "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW")
    sql = folder / "sql"
    argument = f"CAST(x AS DECIMAL({precision},{scale}))"
    calls = ", ".join(f"{name}({argument}) OVER w AS {name}" for name in ("var_pop", "stddev_samp"))
    windows = project.stream_views["act"].sql.partition("WINDOW")[2]
    (sql / "act.sql").write_text(f"SELECT user_id, {calls} FROM behaviour WINDOW {windows}")
    (sql / "ranking.sql").write_text(
        "SELECT request_id, item_id, var_pop, stddev_samp FROM request LEFT JOIN act USING (user_id)"
    )
    return load(folder)


@pytest.mark.parametrize(("precision", "scale"), TYPES)
@settings(max_examples=tries(8), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_squares(tmp_path_factory: pytest.TempPathFactory, precision: int, scale: int, data: st.DataObject) -> None:
    limit = 10**precision - 1
    edges = st.sampled_from([limit, -limit, limit - 1, 0, 1]) | st.integers(-limit, limit)
    unscaled = data.draw(st.lists(edges, min_size=1, max_size=5))
    project = _known(tmp_path_factory, precision, scale)
    values = [Decimal(n).scaleb(-scale) for n in unscaled]
    events = pa.table(
        {
            "user_id": ["u"] * len(values),
            "event_time": pa.array(range(len(values)), pa.timestamp("us")),
            "x": [f"{value:f}" for value in values],
        }
    )
    requests = pa.table(
        {
            "request_id": ["r"], "user_id": ["u"], "request_time": pa.array([10**6], pa.timestamp("us")),
            "x": pa.nulls(1, pa.string()), "item_id": [1],
        }
    )  # fmt: skip
    batch, stream = (
        project.evaluate(None, requests, {"behaviour": events}, engine=engine) for engine in ("batch", "stream")
    )
    for name in ("var_pop", "stddev_samp"):
        assert bits(batch.column(name)) == bits(stream.column(name))
    n, mean = len(values), sum(map(Fraction, values)) / len(values)
    spread = sum(((Fraction(v) - mean) ** 2 for v in values), Fraction(0))
    assert isclose(stream.column("var_pop")[0].as_py(), float(spread / n), rel_tol=1e-12)
    if n > 1:
        assert isclose(stream.column("stddev_samp")[0].as_py(), sqrt(float(spread / (n - 1))), rel_tol=1e-12)


_PROJECTS: dict[tuple[int, int], Project] = {}


def _known(folders: pytest.TempPathFactory, precision: int, scale: int) -> Project:
    """The project of a type, made once: an example of hypothesis has no folder of its own."""
    if (precision, scale) not in _PROJECTS:
        _PROJECTS[precision, scale] = project_of(folders.mktemp("squares") / "p", precision, scale)
    return _PROJECTS[precision, scale]
