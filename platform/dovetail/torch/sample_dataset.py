"""Samples for PyTorch: a dataset whose workers read shards, and a loader that goes on exactly where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import torch
from dovetail.features import Project
from dovetail.platform.errors import ConfigError, StateError
from dovetail.samples import Reader
from dovetail.samples.tensors import Columns, arrays_of
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

__all__ = ["SampleDataset", "SampleLoader"]

_FORMAT = 1
#: The key of a batch under which a worker says which shard it is of, and where that is afterwards.
_PLACE = "_place"


class SampleDataset(IterableDataset[dict[str, Any]]):
    """The samples of a project as batches of tensors: a dictionary as :func:`~dovetail.samples.tensors.arrays_of` says.

    Each worker of a loader is one shard of the samples, and so is each process of a distributed training (``rank``,
    of so many); the candidates of a request stay together. Batches are made whole here: give a ``DataLoader``
    ``batch_size=None``, or use :class:`SampleLoader`, whose state goes on exactly.

    ``options`` are those of :class:`~dovetail.samples.reader.Reader`, but for ``columns``, ``per_request`` and
    ``shard``.
    """

    def __init__(
        self,
        project: Project | str | Path = ".",
        columns: Columns | None = None,
        *,
        rank: tuple[int, int] = (0, 1),
        **options: Any,
    ) -> None:
        number, processes = rank
        if not 0 <= number < processes:
            raise ConfigError(f"rank = {rank}: give (number, processes) with 0 <= number < processes")
        if own := sorted({"columns", "per_request", "shard"} & set(options)):
            raise ConfigError(
                f"{own[0]} is not given to a dataset: it reads what Columns(...) names, a shard per worker"
            )
        self._project = str(project) if isinstance(project, Path) else project
        self.columns = columns or Columns()
        self._rank, self._options = rank, options
        # By shard, where its reader is; and which worker has the first turn.
        self.places: dict[int, str] = {}
        self.first = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.with_places():
            del batch[_PLACE]
            yield batch

    def with_places(self) -> Iterator[dict[str, Any]]:
        """The batches of this worker, each with the shard it is of and the state of its reader after it."""
        worker = get_worker_info()
        workers, mine = (
            (1, 0) if worker is None else (worker.num_workers, (worker.id + self.first) % worker.num_workers)
        )
        number, processes = self._rank
        shard = number * workers + mine
        with Reader(
            self._project,
            columns=self.columns.read,
            per_request=self.columns.per_request,
            shard=(shard, processes * workers),
            **self._options,
        ) as reader:
            if shard in self.places:
                reader.load_state_dict(json.loads(self.places[shard]))
            for rows in reader:
                batch = _tensors(arrays_of(rows, self.columns))
                batch[_PLACE] = (mine, shard, json.dumps(reader.state_dict()))
                yield batch


class SampleLoader:
    """Loads a :class:`SampleDataset` with ``workers`` processes; 0 reads in this one.

    Guarantees: between two batches, :meth:`state_dict` says what has been given out, whatever workers have prepared
    beyond it; a loader made with the same arguments that loads it gives out the next batch, and so on: the same rows,
    in the same batches and order, as had nobody stopped. ``options`` are further ones of ``DataLoader``.
    """

    def __init__(self, dataset: SampleDataset, *, workers: int = 0, **options: Any) -> None:
        self._dataset, self._workers, self._options = dataset, workers, options
        self._places: dict[int, str] = dict(dataset.places)
        self._next = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches from where the loader is."""
        self._dataset.places, self._dataset.first = dict(self._places), self._next
        loader = DataLoader(
            _Placed(self._dataset), batch_size=None, num_workers=self._workers, collate_fn=_as_it_is, **self._options
        )
        for batch in loader:
            worker, shard, place = batch.pop(_PLACE)
            self._places[shard] = place
            self._next = (worker + 1) % max(1, self._workers)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON can say it. Keep it with the weights, in one write."""
        readers = {str(shard): json.loads(place) for shard, place in self._places.items()}
        return {"format": _FORMAT, "workers": self._workers, "next": self._next, "readers": readers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the loader was whose :meth:`state_dict` this is.

        Raises:
            StateError: it is none, or of a loader with another number of workers. (What else is not the same, its
                readers say when they begin.)
        """
        if state.get("format") != _FORMAT:
            raise StateError(f"the state of a loader has format {_FORMAT}, this says {state.get('format')!r}")
        if state.get("workers") != self._workers:
            raise StateError(
                f"the state is of a loader with {state.get('workers')} workers, and this one has {self._workers}: each "
                "worker is a shard, so make it with as many"
            )
        self._places = {int(shard): json.dumps(place) for shard, place in state["readers"].items()}
        self._next = int(state["next"])


class _Placed(IterableDataset[dict[str, Any]]):
    """The dataset with the places of its batches, for the loader alone."""

    def __init__(self, dataset: SampleDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._dataset.with_places()


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def _tensors(arrays: Any) -> Any:
    if isinstance(arrays, dict):
        return {name: _tensors(each) for name, each in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(_tensors(each) for each in arrays)
    # Arrow's buffers may be read and not written, which tensors cannot say.
    return torch.from_numpy(np.require(arrays, requirements="W"))
