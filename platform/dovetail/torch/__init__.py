"""Samples for PyTorch. Needs the extra ``dovetail[torch]``."""

from __future__ import annotations

from dovetail.samples.tensors import Columns, Sequences
from dovetail.torch.sample_dataset import SampleDataset, SampleLoader

__all__ = ["Columns", "SampleDataset", "SampleLoader", "Sequences"]
