"""Scored requests while a model of 2^24 weights is published every two seconds, against without: p99.

    python benchmarks/model_swap.py

A request goes the way of ``benchmarks/request.py``: 200 candidates, features from the online store, one score each.
Another process publishes a full model of 2^24 weights every two seconds. Three ways take turns, so that what else runs
on the machine hits all of them: nothing is published; it is loaded beside serving, as the worker does; it is loaded in
the thread that answers. The first two are to be within 1.5 of each other.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from request import SEED, item_table, write_events, write_requests

from dovetail.app.modelling import encoder_of
from dovetail.features import load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.trainer.models.beside import LoadedBeside
from dovetail.trainer.models.container import create
from dovetail.trainer.models.numbered import NumberedFiles
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from dovetail.trainer.samples.encoding import Encoder

BITS, EVERY_S, SECONDS, ROUNDS = 24, 2.0, 10.0, 3


def model_of(encoder: Encoder) -> Model:
    """A model whose every weight is used."""
    weights = np.random.default_rng(SEED).normal(0, 0.1, 1 << BITS).astype(np.float32)
    return Model.from_dense(encoder.fingerprint, BITS, 1, weights, encoder.new_moments(), encoder.describe())


def publish(folder: str, encoder: Encoder, ready: Event, on: Event, end: Event) -> None:
    """Put version after version there as long as it is ``on``; what it takes to make one is the trainer's affair."""
    files, content = NumberedFiles(Path(folder), "model"), model_of(encoder).content(1)
    ready.set()
    while not end.is_set():
        if on.wait(timeout=0.1):
            begin = time.monotonic()
            create(files.path(files.latest() + 1), content)
            files.prune(2)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - begin)))


def milliseconds(answer: Callable[[pa.Table], Any], requests: list[pa.Table]) -> list[float]:
    """The time of each answer in a while."""
    taken, end, number = [], time.perf_counter() + SECONDS, 0
    while (begin := time.perf_counter()) < end:
        answer(requests[number % len(requests)])
        taken.append((time.perf_counter() - begin) * 1e3)
        number += 1
    return taken


def main() -> None:
    """Print a line per way, and the ratios."""
    project = load(Path(__file__).parent.parent)
    assert project.config.model is not None, "the shipped project has a model"
    encoder = Encoder(encoder_of(project.config.model).inputs, BITS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        write_events(project, store)
        registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        versions = BatchVersions(project.batch_views, registry, OfflineStore(str(folder / "offline")), item_table)
        online = OnlineFeatures(project.feature_set, project.stream_views, store, versions)
        directory = ModelDirectory(folder / "models", keep=2)
        directory.publish(1, model_of(encoder))
        context = multiprocessing.get_context("spawn")
        ready, on, end = context.Event(), context.Event(), context.Event()
        publisher = context.Process(target=publish, args=(str(directory.path), encoder, ready, on, end))
        publisher.start()
        beside, between = LoadedBeside(Scorer(directory, encoder)), Scorer(directory, encoder)
        between.refresh()
        requests = write_requests(project)
        beside.warm(online.serve(flatten_requests(requests[0])).features.schema)

        def answer(scorer: Scorer | LoadedBeside, request: pa.Table) -> Any:
            scorer.refresh()
            return scorer.score(online.serve(flatten_requests(request)).features)

        ways = {"nothing published": (beside, False), "loaded beside": (beside, True), "in between": (between, True)}
        for request in requests[:100]:
            answer(beside, request)
        ready.wait()
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, (scorer, published) in ways.items():
                (on.set if published else on.clear)()
                time.sleep(EVERY_S)  # the last load has ended
                taken[way] += milliseconds(lambda request, scorer=scorer: answer(scorer, request), requests)  # type: ignore[misc]
        end.set()
        on.set()
        publisher.join()
        print(f"scored requests, 2^{BITS} weights published every {EVERY_S:.0f} s: {directory.latest() - 1} versions")
        found = {way: np.percentile(times, (50, 99, 99.9)) for way, times in taken.items()}
        for way, (p50, p99, p999) in found.items():
            ratio = p99 / found["nothing published"][1]
            print(f"  {way:<18} p50 {p50:6.2f} ms  p99 {p99:7.2f} ms ({ratio:.2f})  p99.9 {p999:7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
