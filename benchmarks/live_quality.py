"""What judging data quality live costs a worker: the share of its processor time that sketches of windows take.

    python -m benchmarks.live_quality [--requests 6000] [--max-delay 20s]

The demo's simulated day runs through a worker with all roles that archives at least every so often, [quality] live. The
processor time of the threads that sketch and add up is divided by that of the process, verdicts at the end included.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dovetail.app.quality import live
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo

SPENT: Counter[str] = Counter()
CALLS: Counter[str] = Counter()


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose processor time is added up under ``name``."""

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.thread_time_ns()
        try:
            return function(*arguments, **options)
        finally:
            SPENT[name] += time.thread_time_ns() - began
            CALLS[name] += 1

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--max-delay", default="20s")
    given = parser.parse_args()
    for name in ("sketches_by_window", "merged_sketches"):
        setattr(live, name, timed(name, getattr(live, name)))
    log = replace(simulate(SimulatorConfig(seed=11, requests=given.requests, days=1)), slice_us=15 * 60_000_000)
    overrides = {"quality": {"live": True}, "archive": {"max_delay": given.max_delay}}
    with tempfile.TemporaryDirectory() as folder:
        began, clock = time.process_time_ns(), time.perf_counter()
        asyncio.run(run_demo(log, Path(folder), on_progress=lambda _: None, overrides=overrides))
        spent = time.process_time_ns() - began
    print(f"{time.perf_counter() - clock:.0f} s, {spent / 1e9:.1f} s of processor time")
    for name, ns in SPENT.items():
        print(f"  {name:20} {CALLS[name]:5} calls  {ns / 1e6:8.1f} ms  {ns / spent:.2%}")
    print(f"  together             {sum(SPENT.values()) / spent:.2%}")


if __name__ == "__main__":
    main()
