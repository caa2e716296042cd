"""A model's weights under other inputs: what an input that is added or removed leaves as it was.

A slot depends on an input's kind and columns and on the value alone, so the weights of an input that stays are where
they were, whatever stands beside it. Those of one that is gone stay in their slots, too: a value of another input may
share such a slot, and would lose its weight with it. The values of a new input find in their slots what any value does:
nothing, or the weight of a value that hashes to the same slot (``dovetail model collisions`` counts those).
"""

from __future__ import annotations

from typing import NamedTuple

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float64
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.samples.inputs import InputSpec

__all__ = ["Carried", "carry"]


class Carried(NamedTuple):
    """The names of the inputs that keep their weights, of those that are new and of those that are gone."""

    kept: list[str]
    added: list[str]
    removed: list[str]
    #: Those of the new encoder's standardised inputs: float64 [inputs of that kind, 3].
    moments: Float64


def carry(moments: Float64, before: Encoder, after: Encoder) -> Carried:
    """How a model trained with ``before``, whose moments are given, goes on with the inputs of ``after``.

    Its weights are taken as they are. An input stays if its kind and its columns do: one of another kind is another
    input. A list may be read further or less far than before.

    Raises:
        ConfigError: the two differ in bits or loss, have no input in common, or have one of other boundaries.
    """
    for what, old, new in (("bits", before.bits, after.bits), ("loss", before.loss, after.loss)):
        if old != new:
            raise ConfigError(f"it has {what} = {old} and this model {new}: its weights mean nothing there; take {old}")
    theirs = {_known(spec): spec for spec in before.inputs}
    mine = {_known(spec): spec for spec in after.inputs}
    for known in mine.keys() & theirs.keys():
        old_edges, new_edges = theirs[known].boundaries, mine[known].boundaries
        if old_edges != new_edges:
            raise ConfigError(
                f"its input {mine[known].name!r} has boundaries {_shown(old_edges)}, this model's has "
                f"{_shown(new_edges)}: the weights are of other intervals; keep the boundaries, or give the feature "
                "set another column for the new ones"
            )
    kept = [known for known in mine if known in theirs]
    if not kept:
        raise ConfigError("it has no input in common with this model; train without a start")
    carried = after.new_moments()
    old_places, new_places = _standardised(before), _standardised(after)
    for name in new_places.keys() & old_places.keys():
        carried[new_places[name]] = moments[old_places[name]]
    return Carried(
        [mine[known].name for known in kept],
        [spec.name for known, spec in mine.items() if known not in theirs],
        [spec.name for known, spec in theirs.items() if known not in mine],
        carried,
    )


def _known(spec: InputSpec) -> tuple[str, str]:
    return spec.kind, spec.name


def _standardised(encoder: Encoder) -> dict[str, int]:
    """The row of each standardised input's moments."""
    return {name: row for row, name in enumerate(spec.name for spec in encoder.inputs if spec.kind == "standardised")}


def _shown(edges: tuple[float, ...] | None) -> str:
    return ", ".join(f"{edge:g}" for edge in edges or ())
