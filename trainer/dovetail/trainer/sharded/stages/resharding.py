"""The kept state of a model on shards, made that of another number: slots move as the rings say, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.container import Container, pack
from dovetail.trainer.models.state_files import StateFiles, newest_head
from dovetail.trainer.models.touched import all_records, touched_records
from dovetail.trainer.sharded.assembly import place_again
from dovetail.trainer.sharded.ring import Ring, moves
from dovetail.trainer.sharded.stages.kept_stage import shards_of, with_shards
from dovetail.trainer.sharded.stages.shard_topics import shard_folder

__all__ = ["Resharded", "reshard"]

#: Stages around the shards, in the order in which they are changed: the number of shards is the splitter's, the last.
_AROUND = ("versions", "reducer", "splitter")


class Resharded(NamedTuple):
    """A change of shards that was done: their number before and after, and how many slots have moved to another one.

    ``taken_back``: a change to so many shards had been cut short, and was taken back; 0 where there was none.
    """

    before: int
    after: int
    moved: int
    taken_back: int = 0


def reshard(checkpoints: Path, after: int) -> Resharded:
    """Place the model whose states are in the folder ``checkpoints`` on ``after`` shards.

    All its workers have stopped, and nothing was on the way between its stages: every batch that was cut is applied by
    every shard and predicted, and every version is out. Each state is replaced by compare-and-set, the splitter's last,
    which says how many shards there are: killed in between, it is done by calling it again, or taken back by calling it
    with the number before, and until then no worker starts.

    :raises ModelError: there is no such model, a state is torn or corrupt, something is on the way, or the model was on
        ``after`` shards before, and samples were trained since.
    """
    _require_on_shards(checkpoints)
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
    taken_back = 0
    for name, (sequence, stored) in around.items():
        if (found := shards_of(stored.header["configuration"])) != after:
            taken_back = found if before == after else 0
            content = pack(
                {**stored.header, "configuration": with_shards(stored.header["configuration"], after)}, stored.arrays
            )
            StateFiles(checkpoints / name).save(content, after=sequence)
    return Resharded(before, after, moved, taken_back)


def _require_on_shards(checkpoints: Path) -> None:
    """Refuse a folder that is of no model on shards, and leave it as it is."""
    if any(newest_head(checkpoints / name) for name in _AROUND) or any(checkpoints.glob("shard-*-of-*/checkpoint-*")):
        return
    if newest_head(checkpoints) is not None:
        raise ModelError(
            f"{checkpoints} has checkpoints of a trainer without shards, which cannot be placed on shards; remove "
            "[trainer] shards, or give the model another name: it begins anew on shards, or with what dovetail train "
            "--seed lays down"
        )
    raise ModelError(
        f"{checkpoints} has no model on shards yet, so there is nothing to be moved: start the workers, and they begin "
        "with the shards that [trainer] shards says"
    )


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
    settings = splitter["configuration"]["settings"]
    delayed = settings.get("publish_delay", False)
    due = splitter["state"]["versioned"] if delayed else splitter["state"]["prepared"] // settings["publish_every"]
    found = {
        "batches that are predicted": (around["reducer"][1].header["state"]["reduced"], batch),
        "versions that are out": (around["versions"][1].header["state"]["given"], due),
    }
    for number, stored in enumerate(shards):
        for done in ("answered", "applied"):
            found[f"batches that shard {number} has {done}"] = (stored.header["state"][done], batch)
    behind = [f"{what}: {done} of {wanted}" for what, (done, wanted) in found.items() if done < wanted]
    ahead = [f"{what}: {done}, of which it knows {wanted}" for what, (done, wanted) in found.items() if done > wanted]
    if ahead:
        behind.append(f"the state of the splitter is older than others: {'; '.join(ahead)}")
    if behind:
        raise ModelError(
            f"{checkpoints}: something is on its way between the shards ({'; '.join(behind)}); start the workers with "
            "the shards that there were, let them come to the end of their topics, stop them, and do this again"
        )


def _begin_shards(checkpoints: Path, rings: tuple[Ring, Ring], shards: list[Container], batch: int) -> None:
    before, after = rings
    records = [all_records(before.size(number), stored.arrays) for number, stored in enumerate(shards)]
    for number, placed in enumerate(place_again(before, after, records)):
        header = {
            **shards[0].header, "configuration": with_shards(shards[0].header["configuration"], after.shards),
            "position": 0, "state": {"answered": batch, "applied": batch, "pending": []},
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
            f"{folder}: there are states of so many shards, from a change to this number that was not finished, or "
            "from when the model was on them, and samples were trained since. Choose another number"
        )
