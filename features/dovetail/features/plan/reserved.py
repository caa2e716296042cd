"""Names that snapshots and samples need for themselves: a feature of such a name would be theirs, or they it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["OF_EXPERIMENTS", "reserved_outputs"]

#: Beside the keys, which a feature set has to select, and what begins with an underscore, as positions do.
_RESERVED = (
    *("request_time", "score", "model_version", "shadow_score", "shadow_version"),
    *("label", "weight", "emission", "elapsed_days", "return_day"),
)
#: Columns that samples of projects with an experiment have besides.
OF_EXPERIMENTS = ("experiment", "arm", "arm_draw")


def reserved_outputs(
    label_kinds: Iterable[str], values: Iterable[str] = (), *, experiments: bool = False
) -> frozenset[str]:
    """The names, in lower case, of the columns that a snapshot or a sample has beside its features.

    ``<kind>_time`` is when the label of a kind came; ``values`` come from labels' own columns.
    ``request_time`` may be selected as the request has it. With ``experiments``, those that say the arm are taken, too.
    """
    arms = OF_EXPERIMENTS if experiments else ()
    return frozenset(name.lower() for name in (*_RESERVED, *arms, *(f"{kind}_time" for kind in label_kinds), *values))
