"""The kept state of a model on shards, made that of another number: slots move as the rings say, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.container import Container, pack
from dovetail.trainer.models.state_files import StateFiles
from dovetail.trainer.models.touched import all_records, touched_records
from dovetail.trainer.sharded.assembly import place_again
from dovetail.trainer.sharded.ring import Ring, moves
from dovetail.trainer.sharded.stages.shard_topics import shard_folder

__all__ = ["Resharded", "reshard"]

#: Stages around the shards, in the order in which they are changed: the number of shards is the splitter's, the last.
_AROUND = ("versions", "reducer", "splitter")


class Resharded(NamedTuple):
    """A change of shards that was done: their number before and after, and how many slots have moved to another one."""

    before: int
    after: int
    moved: int


def reshard(checkpoints: Path, after: int) -> Resharded:
    """Place the model whose states are in the folder ``checkpoints`` on ``after`` shards.

    All its workers have stopped, and nothing was on the way between its stages: every batch that was cut is applied by
    every shard and predicted, and every version is out. Each state is replaced by compare-and-set, the splitter's last,
    which says how many shards there are: killed in between, it is done by calling it again, and until then no worker
    starts.

    :raises ModelError: there is no such model, a state is torn or corrupt, something is on the way, or the model was on
        ``after`` shards before.
    """
    around = {name: _newest(checkpoints / name) for name in _AROUND}
    splitter = around["splitter"][1].header
    before, batch = int(splitter["configuration"]["settings"]["shards"]), int(splitter["state"]["number"])
    bits = int(splitter["configuration"]["encoder"]["bits"])
    rings = Ring(before, bits), Ring(after, bits)
    moved = sum(len(move.cells) for move in moves(*rings)) * rings[1].cell_size
    if before != after:
        shards = [_newest(shard_folder(checkpoints, number, before))[1] for number in range(before)]
        _require_idle(checkpoints, around, shards, batch)
        _begin_shards(checkpoints, rings, shards, batch)
    for name, (sequence, stored) in around.items():
        if _shards_of(stored.header["configuration"]) != after:
            content = pack(
                {**stored.header, "configuration": _with(stored.header["configuration"], after)}, stored.arrays
            )
            StateFiles(checkpoints / name).save(content, after=sequence)
    return Resharded(before, after, moved)


def _newest(folder: Path) -> tuple[int, Container]:
    files = StateFiles(folder)
    if not (sequence := files.newest()):
        raise ModelError(
            f"{folder} has no state: let the workers run with the shards that there were, until they have stored one"
        )
    return sequence, files.read(sequence)


def _require_idle(
    checkpoints: Path, around: Mapping[str, tuple[int, Container]], shards: list[Container], batch: int
) -> None:
    splitter = around["splitter"][1].header
    due = splitter["state"]["prepared"] // splitter["configuration"]["settings"]["publish_every"]
    found = {
        "batches that are predicted": (around["reducer"][1].header["state"]["reduced"], batch),
        "versions that are out": (around["versions"][1].header["state"]["given"], due),
    }
    for number, stored in enumerate(shards):
        for done in ("answered", "applied"):
            found[f"batches that shard {number} has {done}"] = (stored.header["state"][done], batch)
    if behind := [f"{what}: {done} of {wanted}" for what, (done, wanted) in found.items() if done != wanted]:
        raise ModelError(
            f"{checkpoints}: something is on its way between the shards ({'; '.join(behind)}); start the workers with "
            "the shards that there were, let them come to the end of their topics, stop them, and do this again"
        )


def _begin_shards(checkpoints: Path, rings: tuple[Ring, Ring], shards: list[Container], batch: int) -> None:
    before, after = rings
    records = [all_records(before.size(number), stored.arrays) for number, stored in enumerate(shards)]
    for number, placed in enumerate(place_again(before, after, records)):
        header = {
            **shards[0].header, "configuration": _with(shards[0].header["configuration"], after.shards), "position": 0,
            "state": {"answered": batch, "applied": batch, "pending": []},
        }  # fmt: skip
        content = pack(header, touched_records(placed, shards[0].arrays["blank"]))
        _begin(shard_folder(checkpoints, number, after.shards), content)


def _begin(folder: Path, content: bytes) -> None:
    """The first state of a shard, which may be there already: from the same call, cut short."""
    files = StateFiles(folder)
    if not files.newest():
        files.save(content, after=0)
    elif files.path(files.newest()).read_bytes() != content:
        raise ModelError(
            f"{folder}: the model was on so many shards before, and their topic has messages of then; choose "
            "another number"
        )


def _shards_of(configuration: Mapping[str, Any]) -> int:
    return int(configuration.get("settings", configuration)["shards"])


def _with(configuration: dict[str, Any], shards: int) -> dict[str, Any]:
    if "settings" in configuration:
        return {**configuration, "settings": {**configuration["settings"], "shards": shards}}
    return {**configuration, "shards": shards}
