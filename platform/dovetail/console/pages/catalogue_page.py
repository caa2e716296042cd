"""The pages of definitions: the catalogue, one definition, and the lineage of a feature set."""

from __future__ import annotations

from typing import Any

from dovetail.app.looking.definition_entries import catalogue_of
from dovetail.app.looking.lineage import lineage_of
from dovetail.console.layered import picture_of
from dovetail.console.looked import Looked
from dovetail.console.pages.nowhere import Nowhere

__all__ = ["catalogue_page", "definition_page", "lineage_page"]


def catalogue_page(looked: Looked) -> dict[str, Any]:
    """Every definition, and the model with its inputs."""
    config = looked.project.config
    return {
        "entries": catalogue_of(looked.project, looked.stores),
        "streams": list(looked.project.streams.values()),
        "model": config.model,
        "serving": looked.project.feature_set.name,
    }


def definition_page(looked: Looked, name: str) -> dict[str, Any]:
    """One definition.

    Raises:
        Nowhere: there is none of this name.
    """
    entries = {entry.described.name: entry for entry in catalogue_of(looked.project, looked.stores)}
    if name not in entries:
        raise Nowhere(f"there is no definition {name!r}; there are {', '.join(sorted(entries))}")
    entry = entries[name]
    changed = entry.record is not None and entry.record.text.strip() != entry.sql
    return {"entry": entry, "changed": changed, "is_set": name in looked.project.feature_sets}


def lineage_page(looked: Looked, features: str | None, through: str | None) -> dict[str, Any]:
    """The lineage of a feature set (None: the one that serves), or the part of it that lies through a node.

    Raises:
        Nowhere: there is no such feature set or node.
    """
    sets = looked.project.feature_sets
    name = features or looked.project.feature_set.name
    if name not in sets:
        raise Nowhere(f"there is no feature set {name!r}; there are {', '.join(sorted(sets))}")
    lineage = lineage_of(looked.project, sets[name])
    if through is not None:
        lineage = lineage.through(through)
        if not lineage.nodes:
            raise Nowhere(f"{through!r} is no column in the lineage of {name}")
    return {"features": name, "through": through, "lineage": lineage, "picture": picture_of(lineage)}
