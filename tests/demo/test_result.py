"""The verdict on a demo run."""

from __future__ import annotations

import pytest

from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import DemoResult
from dovetail.features.batch.witness import Witnessed
from dovetail.features.stored.consistency import Consistency, FeatureConsistency
from dovetail.platform.rows.audit import Audit


@pytest.mark.parametrize(
    ("compared", "mismatched", "unbalanced", "witnessed", "passed"),
    [
        (10, 0, [], 0, True),
        (10, 1, [], 0, False),
        (10, 0, ["one row is gone"], 0, False),
        (10, 0, [], 1, False),
        # Every request was refused: nothing differs, and nothing was shown.
        (0, 0, [], 0, False),
    ],
)
def test_a_run_passes_when_all_that_it_served_is_right(
    compared: int, mismatched: int, unbalanced: list[str], witnessed: int, passed: bool
) -> None:
    consistency = Consistency((FeatureConsistency("f", compared, mismatched, late=0),))
    log = simulate(SimulatorConfig(requests=1))
    assert DemoResult(log, Audit([], [], unbalanced), consistency, Witnessed(mismatched=witnessed), {}).passed is passed
