"""Samples for PyTorch. Needs the extra ``dovetail-samples[torch]``."""

from __future__ import annotations

from dovetail.platform.extras import extra_needed
from dovetail.samples.tensors import Columns, Sequences

try:
    from dovetail.torch.sample_dataset import SampleDataset, SampleLoader
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(extra_needed("dovetail.torch", "torch", "torch"), name="torch") from error

__all__ = ["Columns", "SampleDataset", "SampleLoader", "Sequences"]
