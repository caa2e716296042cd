"""Differences between a definition and what is registered under its name, line by line, for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.features.stored.read_columns import SETTING
from dovetail.platform.stores.registry.definition_log import DefinitionRecord

__all__ = ["differences", "rekeyed_parts", "settings_of"]

_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1))


def settings_of(definition: StreamView | BatchView | FeatureSet) -> dict[str, str]:
    """The settings of ``dovetail.toml`` that the meaning, or the state, of a definition may depend on."""
    if isinstance(definition, StreamView):
        found = {"[features] strictly_before": str(definition.strictly_before).lower()}
        for branch in definition.reads:
            found[f"[streams.{branch.stream.name}] allowed_lateness"] = _duration(branch.stream.allowed_lateness_us)
            found[f"[streams.{branch.stream.name}] event_time"] = branch.stream.event_time
        return found
    if isinstance(definition, BatchView):
        every = {f"[batch_views.{definition.name}] every": _duration(definition.every_us)}
        return every | {f"[tables.{t.schema.name}] available_at": t.available_at for t in definition.tables}
    return {}


def differences(known: DefinitionRecord, record: DefinitionRecord) -> list[str]:
    """Each thing that differs: settings and columns as ``name: old -> new``, the text as lines with ``-`` and ``+``.

    Of a definition that was registered before settings and columns were kept, only the text is known.
    """
    found = []
    if known.reads:
        old, new = _settings(known), _settings(record)
        found += [f"{name}: {old[name]} -> {new[name]}" for name in old if name in new and old[name] != new[name]]
        before, after = _columns(known), _columns(record)
        found += [f"reads {name} no more" for name in before if name not in after]
        found += [f"reads {name} ({type_}), which it did not" for name, type_ in after.items() if name not in before]
        found += [f"reads {n}: {t} -> {after[n]}" for n, t in before.items() if n in after and after[n] != t]
    lines = list(difflib.unified_diff(_lines(known), _lines(record), n=0, lineterm=""))[2:]
    return found + [f"{line[0]} {line[1:]}" for line in lines if not line.startswith("@@")]


def _lines(record: DefinitionRecord) -> list[str]:
    """The text without layout: its words, a space apart."""
    return [" ".join(line.split()) for line in record.text.splitlines() if line.strip()]


def _settings(record: DefinitionRecord) -> Mapping[str, str]:
    return {name: value for relation, name, value, _ in json.loads(record.reads or "[]") if relation == SETTING}


def _columns(record: DefinitionRecord) -> Mapping[str, str]:
    entries = json.loads(record.reads or "[]")
    return {f"{relation}.{column}": type_ for relation, column, type_, kind in entries if relation != SETTING and kind}


def _duration(microseconds: int) -> str:
    unit, size = next((unit, size) for unit, size in _UNITS if microseconds % size == 0)
    return f"{microseconds // size} {unit}"


def rekeyed_parts(known: DefinitionRecord, record: DefinitionRecord) -> list[str]:
    """Differences between two declarations of a re-keyed stream: settings, and of views what rows have of them."""
    before, after = _parts(known), _parts(record)
    found = []
    for part in dict.fromkeys([*after, *before]):
        old, new = before.get(part), after.get(part)
        if old is None or new is None:
            found.append(
                f"{'+' if old is None else '-'} {part}" + ("" if part.startswith("view ") else f" {old or new}")
            )
        elif old != new and part.startswith("view "):
            (meant, late), (means, lateness) = old.split(" "), new.split(" ")
            found.append(
                f"~ {part} means something else"
                if meant != means
                else f"~ allowed_lateness of the stream of {part} {_duration(int(late))} -> {_duration(int(lateness))}"
            )
        elif old != new:
            found.append(f"~ {part} {old} -> {new}")
    return found


def _parts(record: DefinitionRecord) -> dict[str, str]:
    found = {}
    for line in record.outputs.splitlines():
        name, _, value = line.partition(" ")
        if name == "view":
            view, _, value = value.partition(" ")
            name = f"view {view}"
        found[name] = value
    return found
