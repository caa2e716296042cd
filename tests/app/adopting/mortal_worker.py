"""A worker that takes in a model handed over to its trainer, and can be told when to die, by SIGKILL.

Usage: mortal_worker.py PROJECT RESULT DIE_AT. The process kills itself after the n-th step of its trainer; between the
checkpoint that a model becomes and the end of its waiting there is one, too. DIE_AT 0 lets it live.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dovetail.app.flow import Flow
from dovetail.app.reports import audit_worker
from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.trainer.models.handed_over import Mailbox
from dovetail.trainer.training import TrainerStage


async def live(folder: Path, die_at: int) -> dict[str, Any]:
    steps = 0

    def step(stage: str, _step: str) -> None:
        nonlocal steps
        steps += stage == "trainer"
        if stage == "trainer" and steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    let_go = Mailbox.done

    def done(self: Mailbox) -> None:
        step("trainer", "stored and not let go")
        let_go(self)

    Mailbox.done = done  # type: ignore[method-assign]
    worker = assemble(load(folder), on_step=step)
    stage = worker.stages["trainer"]
    assert isinstance(stage, TrainerStage)
    async with asyncio.timeout(100):
        await worker.runtime.start()
        flow = Flow(worker)
        await flow.settled()
        await worker.runtime.tick()
        await flow.finish(release=False)
    audit = audit_worker(worker)
    accounts: dict[str, int] = {}
    for account in stage.accounts():
        accounts[account.outcome] = accounts.get(account.outcome, 0) + account.rows
    told = {
        "steps": steps,
        "accounts": accounts,
        "samples": stage.learner.evaluation.samples,
        "wrong": audit.unbalanced,
    }
    worker.stores.close()
    return told


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(live(Path(sys.argv[1]), int(sys.argv[3])))))
