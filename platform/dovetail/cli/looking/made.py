"""``dovetail samples`` and ``dovetail snapshots``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from dovetail.app.broker import broker_app
from dovetail.app.datasets import samples_dataset
from dovetail.app.looking.chosen import chosen
from dovetail.app.looking.made import made_rows, of_requests
from dovetail.app.reports.archived import target_of
from dovetail.app.storage import open_stores
from dovetail.cli.looking.printing import print_rows
from dovetail.cli.looking.shown import Shown
from dovetail.features import load
from dovetail.platform.transports.viewing import view_topics

__all__ = ["run"]


def run(project: Path, what: Literal["samples", "snapshots"], target: str, shown: Shown, scene: str = "") -> int:
    """Show them."""
    loaded = load(project).scene(scene)
    config = loaded.config
    policy = target_of(loaded, target)
    dataset = samples_dataset(target, scene) if what == "samples" else config.in_scene(what)
    topic = policy.samples_topic if what == "samples" else config.request.snapshots_topic
    stores = open_stores(config)

    async def show() -> None:
        async with view_topics(broker_app(config, f"dovetail-{config.name}.client")) as view:
            rows = made_rows(stores, view, dataset, topic, following=shown.following)
            await print_rows(dataset, chosen(rows, shown.asked, of_requests), shown.shape, shown.out)

    try:
        asyncio.run(show())
    finally:
        stores.close()
    return 0
