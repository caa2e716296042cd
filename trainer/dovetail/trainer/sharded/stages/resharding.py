"""The kept state of a model on shards, placed otherwise: slots move as the rings say, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.container import Container, pack
from dovetail.trainer.models.state_files import StateFiles, newest_head
from dovetail.trainer.models.touched import all_records, touched_records
from dovetail.trainer.sharded.assembly import place_again
from dovetail.trainer.sharded.ring import Ring, moves
from dovetail.trainer.sharded.stages.kept_stage import FORMAT
from dovetail.trainer.sharded.stages.shard_topics import Placement, shard_folder, worker_folder

__all__ = ["Resharded", "reshard"]

#: Stages around the shards, in the order in which they are changed: the number of shards is the splitter's, the last.
_AROUND = ("versions", "reducer", "splitter")


class Resharded(NamedTuple):
    """A change of placement that was done: the placements before and after, and how many slots have moved.

    ``taken_back``: a change to this had been cut short, and was taken back; None where there was none.
    """

    before: Placement
    after: Placement
    moved: int
    taken_back: Placement | None = None


def reshard(checkpoints: Path, after: Placement) -> Resharded:
    """Place the model whose states are in the folder ``checkpoints`` as ``after`` says.

    All its workers have stopped, and nothing was on the way between its stages: every batch that was cut is applied by
    every shard and predicted, and every version is out. Each state is replaced by compare-and-set, the splitter's last,
    which says what the placement is: killed in between, it is done by calling it again, or taken back by calling it
    with the placement before, and until then no worker starts.

    :raises ModelError: there is no such model, a state is torn or corrupt, something is on the way, or the model was on
        so many shards before, and samples were trained since.
    """
    _require_on_shards(checkpoints)
    around = {name: _newest(checkpoints / name) for name in _AROUND}
    splitter = around["splitter"][1].header
    before, batch = Placement.of(splitter["configuration"]), int(splitter["state"]["number"])
    bits = int(splitter["configuration"]["encoder"]["bits"])
    rings = Ring(before.shards, bits), Ring(after.shards, bits)
    moved = sum(len(move.cells) for move in moves(*rings)) * rings[1].cell_size
    folders = [shard_folder(checkpoints, number, before.shards) for number in range(before.shards)]
    if before != after:
        shards = [_newest(folder)[1] for folder in folders]
        _require_idle(checkpoints, around, shards, batch)
        if before.shards != after.shards:
            _begin_shards(checkpoints, rings, shards, batch, after)
        _begin_workers(checkpoints, splitter["configuration"], batch, after)
    beside = [worker_folder(checkpoints, number, after.workers) for number in range(after.workers)]
    if before.shards == after.shards:
        beside += folders
    states = [(folder, *_newest(folder)) for folder in beside if StateFiles(folder).newest()]
    states += [(checkpoints / name, *kept) for name, kept in around.items()]
    found = {_place(folder, sequence, stored, after) for folder, sequence, stored in states} - {after}
    return Resharded(before, after, moved, min(found, default=None) if before == after else None)


def _place(folder: Path, sequence: int, stored: Container, placement: Placement) -> Placement:
    """Replace a state by the same one of ``placement``, unless it is; returns the one that it was of."""
    configuration = stored.header["configuration"]
    if (found := Placement.of(configuration)) != placement:
        header = {**stored.header, "configuration": placement.within(configuration)}
        StateFiles(folder).save(pack(header, stored.arrays), after=sequence)
    return found


def _begin_workers(checkpoints: Path, splitter: Mapping[str, Any], batch: int, after: Placement) -> None:
    """Have every worker go on behind ``batch``, in its mailbox where it was; what is in there before is done."""
    described = {name: value for name, value in splitter.items() if name != "settings"}
    for number in range(after.workers):
        files = StateFiles(worker_folder(checkpoints, number, after.workers))
        sequence = files.newest()
        position = int(files.head(sequence)["position"]) if sequence else 0
        header = {
            "format": FORMAT, "kind": "gradients", "configuration": {**described, **after.describe()},
            "position": position, "state": {"done": batch},
        }  # fmt: skip
        files.save(pack(header, {}), after=sequence)


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
            f"{folder} has no state: let the workers run with the shards that there were, until they have stored one "
            "(all store what they have when they stop), and stop them"
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


def _begin_shards(
    checkpoints: Path, rings: tuple[Ring, Ring], shards: list[Container], batch: int, placement: Placement
) -> None:
    before, after = rings
    records = [all_records(before.size(number), stored.arrays) for number, stored in enumerate(shards)]
    for number, placed in enumerate(place_again(before, after, records)):
        header = {
            **shards[0].header, "configuration": placement.within(shards[0].header["configuration"]),
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
