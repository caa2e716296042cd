"""A worker that can be told how to fail: ``dovetail worker --no-api``, with faults built in.

Usage: mortal_worker.py PROJECT FAULT..., each FAULT one of

``die:STAGE:STEP:N``  SIGKILL itself when stage STAGE has done step STEP (computed, published, committed, acknowledged)
                      for the N-th time; ``*`` is any stage, or any step
``die:start``         SIGKILL itself when stores are open and stages made, before the first poll
``late:MS``           every commit takes MS milliseconds longer, as it does to a store in another building
``polls:N``           no poll has more than N messages
``full:WHAT:N``       there is no space for the N-th and every later file of WHAT: ``parquet`` or ``checkpoint``
``no-cas``            a commit takes any stored position for the expected one: a store without its compare-and-set
``broker-positions``  reading resumes from the offsets committed to the broker instead of those in the stores
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Step = Callable[[str, str], None]


def main(project: str, faults: Sequence[str]) -> None:
    parsed = [fault.split(":") for fault in faults]
    if ["no-cas"] in parsed:
        forget_to_compare()  # before the scripts are put together
    from dovetail.cli import worker

    # Any: the name is not one that the module offers.
    command: Any = worker
    assemble = command.assemble

    def mortal(*arguments: Any, **named: Any) -> Any:
        worker = assemble(*arguments, on_step=deaths(parsed), **named)
        if ["die", "start"] in parsed:
            die()
        return worker

    command.assemble = mortal
    for fault in parsed:
        if fault[0] == "full":
            fill_disk(fault[1], int(fault[2]))
        if fault[0] == "late":
            delay_commits(int(fault[1]) / 1_000)
        if fault[0] == "polls":
            limit_polls(int(fault[1]))
    if ["broker-positions"] in parsed:
        resume_from_broker()
    sys.argv = ["dovetail", "worker", "--project", project, "--no-api"]
    from dovetail.cli import main as run

    run()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deaths(faults: Sequence[Sequence[str]]) -> Step:
    """What to call after each step."""
    left = {(fault[1], fault[2]): int(fault[3]) for fault in faults if fault[0] == "die" and fault[1] != "start"}

    def on_step(stage: str, step: str) -> None:
        for place in left:
            if place[0] in ("*", stage) and place[1] in ("*", step):
                left[place] -= 1
                if left[place] == 0:
                    die()

    return on_step


def fill_disk(what: str, at: int) -> None:
    """Let writing fail as it does on a full disk, in the middle of a file."""
    from dovetail.platform.stores.offline import OfflineStore
    from dovetail.trainer.models.checkpoint import CheckpointStore

    files = 0

    def write(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal files
        files += 1
        if files >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *arguments, **named)

    store: Any = OfflineStore if what == "parquet" else CheckpointStore
    method = "write" if what == "parquet" else "save"
    original = getattr(store, method)
    setattr(store, method, write)


def delay_commits(seconds: float) -> None:
    """Let the thread that commits wait first: what a distant store costs, and no processor time."""
    from dovetail.platform.runtime.steps import Steps
    from dovetail.platform.stage import Stage

    commit_now = Steps._commit

    async def commit(self: Steps[Any], stage: Stage, commit: Callable[[], None]) -> None:
        def late() -> None:
            time.sleep(seconds)
            commit()

        await commit_now(self, stage, late)

    Steps._commit = commit  # type: ignore[method-assign]


def limit_polls(messages: int) -> None:
    """Let polls be as small as they are when messages come one by one."""
    from dovetail.platform.transports.kafka.driver import ConsumerThread

    create = ConsumerThread._create_worker_consumer

    def limited(self: Any, transport: Any) -> Any:
        consumer = create(self, transport)
        consumer._max_poll_records = messages
        return consumer

    ConsumerThread._create_worker_consumer = limited  # type: ignore[method-assign]


def forget_to_compare() -> None:
    """Break the stores: commits overwrite whatever position is there, and nobody looks at it before publishing."""
    scripts = "dovetail.platform.stores.redis.scripts"
    if scripts in sys.modules:
        raise SystemExit(f"{scripts} is imported before it can be broken")
    from dovetail.platform.stores.redis import ledger as redis_ledger

    compare = "(stored[1] or '0') ~= ARGV[at]"
    if compare not in redis_ledger.ADVANCE:
        raise SystemExit("the compare-and-set is written differently now; break it differently")
    redis_ledger.ADVANCE = redis_ledger.ADVANCE.replace(compare, "false")
    from dovetail.features.at_events.kept_views import KeptViews

    KeptViews._refuse_other = lambda *_: None  # type: ignore[method-assign]


def resume_from_broker() -> None:
    """Break resuming: the stores are asked, and not listened to."""
    from dovetail.platform.runtime.runner import Runtime

    ask = Runtime._positions

    async def positions(self: Runtime, tps: set[Any]) -> Mapping[Any, int]:
        await ask(self, tps)
        return await self.consumer._committed(tps)

    Runtime._positions = positions  # type: ignore[method-assign]


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), sys.argv[2:])
