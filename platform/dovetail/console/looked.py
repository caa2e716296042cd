"""A project as the pages look at it: its definitions, its stores opened to read, its topics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dovetail.app.broker import broker_app
from dovetail.app.datasets import datasets
from dovetail.app.looking.label_fates import LabelFates
from dovetail.app.looking.one_score import Scores
from dovetail.app.storage import Stores
from dovetail.console.rates import Rates
from dovetail.features import Project
from dovetail.platform.transports.viewing import TopicView, view_topics

__all__ = ["Looked", "looking_at"]


@dataclass(frozen=True, slots=True)
class Looked:
    """A project to look at. Its stores are opened to read; nothing that is done with it changes anything."""

    project: Project
    stores: Stores
    topics: TopicView
    fates: LabelFates
    scores: Scores
    #: By stage and topic, of which "" is all that the stage reads.
    rates: Rates[tuple[str, str]]
    #: The datasets of the archive by name, each with its topic.
    archives: Sequence[tuple[str, str]]
    #: By name of a stage that runs in this process, what it waits for.
    waits: Callable[[], Mapping[str, str]]


@asynccontextmanager
async def looking_at(
    project: Project, stores: Stores, waits: Callable[[], Mapping[str, str]] = dict
) -> AsyncIterator[Looked]:
    """The project with its topics, as long as the block lasts. ``stores`` are opened to read, and stay open.

    ``waits``: of stages that run in this process, what each waits for.

    Raises:
        TransportError: the broker cannot be reached.
    """
    config = project.config
    async with view_topics(broker_app(config, f"dovetail-{config.name}.console")) as topics:
        archives = [(dataset.name, dataset.topic) for dataset in datasets(project)]
        fates, scores = LabelFates(project, stores), Scores(project, stores)
        yield Looked(project, stores, topics, fates, scores, Rates(time.monotonic), archives, waits)
