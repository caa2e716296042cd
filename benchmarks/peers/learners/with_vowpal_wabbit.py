"""Vowpal Wabbit's ``--ftrl``: from its cache of integer names, and from text, which it parses and hashes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import vowpalwabbit

PACKAGES = ("vowpalwabbit",)
OPTIONS = "--ftrl --ftrl_alpha 0.1 --ftrl_beta 1 --l1 0.1 --l2 0.1 --loss_function logistic --noconstant -b 22 --quiet"


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``cache`` or ``text``."""
    cached = f"-d {folder / 'integers.vw'} --cache_file {folder / 'cache'}"

    def run(more: str) -> pa.Table:
        workspace: Any = vowpalwabbit.Workspace(f"{OPTIONS} {more}")
        examples = workspace.get_weighted_examples()
        loss = workspace.get_sum_loss() / examples
        workspace.finish()
        return pa.table({"examples": [int(examples)], "loss": [loss]})

    if way == "text":
        return lambda: run(f"-d {folder / 'names.vw'}")
    run(f"{cached} -k")
    return lambda: run(cached)
