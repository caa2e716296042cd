"""The definitions of a project as entries of a catalogue: text, comments, versions, and the data made with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.features.project import Description
from dovetail.platform.stores.registry.definition_log import DefinitionRecord
from dovetail.platform.stores.registry.store import BatchVersion

__all__ = ["Entry", "Note", "Usage", "catalogue_of", "note_of"]

#: ``-- owner: team`` and ``-- tags: a, b`` in the comments before a definition.
_NAMED = re.compile(r"(owner|owners|tag|tags)\s*:\s*(.+)", re.IGNORECASE)


class Note(NamedTuple):
    """The comments that stand right before a definition: its description, and the owners and tags that they name."""

    description: str = ""
    owners: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Usage(NamedTuple):
    """A dataset that was made with a definition, by the first and the last UTC day of it."""

    dataset: str
    days: int
    first: str
    last: str


class Entry(NamedTuple):
    """One definition: as it is in ``sql/``, and, where a worker has registered it, as that did.

    ``columns`` are its outputs as (name, type, SQL); ``versions`` those of a batch view, the newest first.
    """

    described: Description
    sql: str
    note: Note
    columns: Sequence[tuple[str, str, str]]
    record: DefinitionRecord | None
    uses: Sequence[Usage]
    versions: Sequence[BatchVersion]


def catalogue_of(project: Project, stores: Stores) -> list[Entry]:
    """Every definition, streaming views first."""
    records = stores.registry.definitions()
    days: dict[tuple[str, str], set[str]] = {}
    for use in stores.registry.uses():
        days.setdefault((use.definition, use.dataset), set()).add(use.day)
    uses: dict[str, list[Usage]] = {}
    for (name, dataset), found in sorted(days.items()):
        uses.setdefault(name, []).append(Usage(dataset, len(found), min(found), max(found)))
    definitions: Mapping[str, StreamView | BatchView | FeatureSet] = {
        **project.stream_views,
        **project.batch_views,
        **project.feature_sets,
    }
    entries = []
    for described in project.describe():
        definition = definitions[described.name]
        versions = stores.registry.versions(described.name)[::-1] if described.kind == "batch" else []
        entries.append(
            Entry(
                described,
                definition.sql.strip(),
                note_of(Path(described.file), described.line),
                _columns(definition),
                records.get(described.name),
                uses.get(described.name, []),
                versions,
            )
        )
    return entries


def note_of(file: Path, line: int) -> Note:
    """The note in the ``--`` comments right before ``line`` of ``file``; an empty one where the file is gone."""
    try:
        before = file.read_text(encoding="utf-8").splitlines()[: line - 1]
    except (OSError, UnicodeDecodeError):
        return Note()
    comments: list[str] = []
    for text in reversed(before):
        if not text.strip().startswith("--"):
            break
        comments.insert(0, text.strip().lstrip("-").strip())
    described, named = [], dict[str, list[str]]()
    for text in comments:
        found = _NAMED.fullmatch(text)
        if found is None:
            described.append(text)
        else:
            values = [value.strip() for value in found[2].split(",") if value.strip()]
            named.setdefault(found[1].lower().rstrip("s"), []).extend(values)
    return Note(" ".join(described).strip(), tuple(named.get("owner", ())), tuple(named.get("tag", ())))


def _columns(definition: StreamView | BatchView | FeatureSet) -> list[tuple[str, str, str]]:
    if isinstance(definition, FeatureSet):
        return [(column.name, str(column.type), column.sql.strip()) for column in definition.columns]
    return [(field.name, str(field.type), "") for field in definition.output_schema]
