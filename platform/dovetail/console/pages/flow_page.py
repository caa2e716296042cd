"""The page of the flow: what comes in, how far each stage is, what it waits for, and the newest dead letters."""

from __future__ import annotations

import asyncio
from typing import Any

from dovetail.api.describing import models_of
from dovetail.app.looking.flow_state import flow_state
from dovetail.app.looking.letters import newest_letters
from dovetail.console.flow_picture import flow_picture
from dovetail.console.looked import Looked

__all__ = ["flow_page"]

_LETTERS = 20


async def flow_page(looked: Looked) -> dict[str, Any]:
    """The flow now. Rates are since the last looks; stages of this process say themselves what they wait for."""
    state = await flow_state(looked.project, looked.stores, looked.topics, looked.archives)
    said = looked.waits()
    stages = [stage._replace(waits=said.get(stage.name, stage.waits)) for stage in state.stages]
    state = state._replace(stages=stages)
    read = {(stage.name, reading.topic): reading.read for stage in stages for reading in stage.reads}
    rates = looked.rates.of({(stage.name, ""): stage.read for stage in stages if stage.counted} | read)
    config = looked.project.config
    letters = await newest_letters(looked.topics, config.dead_letter_topic, _LETTERS)
    return {
        "state": state,
        "rates": {stage: rate for (stage, topic), rate in rates.items() if not topic},
        "picture": flow_picture(looked.project, state, {key: rate for key, rate in rates.items() if rate}),
        "shards": config.trainer.shards,
        "publishes": "versions" if config.trainer.sharded else "trainer",
        "models": await asyncio.to_thread(models_of, looked.project, looked.stores),
        "letters": letters,
        "dead_topic": config.dead_letter_topic,
    }
