"""Advice on definitions that are right, and perhaps not what their author means."""

from __future__ import annotations

from dovetail.features.plan.definitions import Aggregate, StreamView

__all__ = ["advice_on"]

_LISTING = ("arg_min", "arg_max", "newest")


def advice_on(view: StreamView) -> list[str]:
    """Sentences that say what to write instead; none where nothing is to be said.

    Lists side by side, of the same events in the same order, are one list of structs: each leaves out the events for
    which its own value is NULL, so that their elements need not belong together, and each is kept and computed by
    itself.
    """
    groups: dict[tuple[object, ...], list[Aggregate]] = {}
    for aggregate in view.aggregates:
        if aggregate.function in _LISTING and aggregate.k is not None:
            by = None if aggregate.by is None else view.inputs[aggregate.by].argument
            groups.setdefault((aggregate.function, by, aggregate.k, aggregate.window), []).append(aggregate)
    found = []
    for (function, order, k, _), lists in groups.items():
        arguments = list(dict.fromkeys(view.inputs[one.input].argument or "" for one in lists))
        if len(arguments) < 2:
            continue
        members = ", ".join(f"'{_name(argument, place)}': {argument}" for place, argument in enumerate(arguments))
        written = (
            f"newest(list({{{members}}}) OVER w, {k})"
            if function == "newest"
            else (f"{function}({{{members}}}, {order}, {k}) OVER w")
        )
        why = "are kept and computed one by one"
        if function != "newest":
            why = "each leave out the events where their value is NULL, so that they may not align, and " + why
        found.append(
            f"{view.file}:{view.line}: {view.name}: {len(arguments)} lists of the same events ({', '.join(arguments)}) "
            f"{why}; write one list of structs, {written}"
        )
    return found


def _name(argument: str, place: int) -> str:
    """What to call a member: as the column is called, where it is one."""
    plain = argument.strip('"')
    return plain if plain.isidentifier() else f"m{place + 1}"
