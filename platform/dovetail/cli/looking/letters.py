"""``dovetail dead-letters``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa

from dovetail.app.broker import broker_app
from dovetail.app.looking.chosen import Asked, chosen
from dovetail.app.looking.letters import Letter, dead_letters, letter_rows, of_message_keys
from dovetail.app.looking.resending import Resending, resend
from dovetail.app.storage import open_stores
from dovetail.cli.looking.printing import print_rows
from dovetail.cli.looking.shown import Shown
from dovetail.cli.output import errors, print_json, terminal
from dovetail.features import load
from dovetail.platform.config.load import Config
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.transports.publishing import publisher
from dovetail.platform.transports.viewing import TopicView, view_topics

__all__ = ["run", "run_resend"]


def run(project: Path, shown: Shown) -> int:
    """Show letters."""
    config = load(project).config
    stores = open_stores(config)

    async def show() -> None:
        async with view_topics(broker_app(config, f"dovetail-{config.name}.client")) as view:
            rows = _rows(view, config, stores.registry, following=shown.following)
            await print_rows("dead letters", chosen(rows, shown.asked, of_message_keys), shown.shape, shown.out)

    try:
        asyncio.run(show())
    finally:
        stores.close()
    return 0


def run_resend(project: Path, asked: Asked, *, as_json: bool) -> int:
    """Send letters again; 1 when one of them could not be."""
    config = load(project).config
    stores = open_stores(config)

    async def send() -> Resending:
        app = broker_app(config, f"dovetail-{config.name}.client")
        async with view_topics(app) as view, publisher(app) as there:
            return await resend(await _asked(view, config, stores.registry, asked), stores.registry, view, there)

    try:
        done = asyncio.run(send())
    finally:
        stores.close()
    lost = [f"{letter.head.topic}[{letter.head.partition}]@{letter.head.offset}" for letter in done.lost]
    if as_json:
        print_json({"sent": done.sent, "sent_before": done.before, "lost": lost})
    else:
        terminal().print(f"{done.sent:,} letters sent again, {done.before:,} had been before")
        for place in lost:
            errors.print(f"{place}: too large to be in its letter, and no longer in its topic", markup=False)
    return 1 if lost else 0


async def _rows(view: TopicView, config: Config, registry: Registry, *, following: bool) -> AsyncIterator[pa.Table]:
    resent = {letter for letter, place in registry.resent().items() if place.sent}
    async for letters in dead_letters(view, config.dead_letter_topic, following=following):
        yield letter_rows(letters, resent)


async def _asked(view: TopicView, config: Config, registry: Registry, asked: Asked) -> list[Letter]:
    rows = chosen(_rows(view, config, registry, following=False), asked, of_message_keys)
    wanted = {offset async for table in rows for offset in table.column("letter").to_pylist()}
    found = dead_letters(view, config.dead_letter_topic)
    return [letter async for letters in found for letter in letters if letter.offset in wanted]
