"""Hashes of definitions: equal when two mean the same, however they are laid out or commented."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import sqlglot

from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.features.plan.request import REQUEST
from dovetail.features.project import Project
from dovetail.features.stored.differences import settings_of
from dovetail.features.stored.read_columns import (
    SETTING,
    Read,
    as_text,
    columns_of,
    kept_branches,
    meaning,
    narrowest,
)
from dovetail.features.stream.layout import Layout
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stores.registry.definition_log import DefinitionRecord

__all__ = ["REKEYED", "REKEYED_PREFIX", "family_of", "former_fingerprint", "mark_of", "record_of", "records_of"]

#: The kind of a re-keyed stream's record.
REKEYED = "re-keyed stream"
#: Before its name there; no view has a dot in its name.
REKEYED_PREFIX = "rekeyed."

#: What a view means beside its text.
_STRICTLY_BEFORE = ["strictly before"]
_VERSIONED = re.compile(r"(?P<family>.+)_v(?P<version>[1-9][0-9]*)")


def family_of(name: str) -> tuple[str, int]:
    """A definition's family and version: ``user_activity_v2`` is version 2 of ``user_activity``, which is version 1."""
    match = _VERSIONED.fullmatch(name)
    return (match["family"], int(match["version"])) if match else (name, 1)


def records_of(project: Project) -> list[DefinitionRecord]:
    """Every view, feature set and re-keyed stream of ``project`` as the registry keeps it."""
    made = [
        record_of(definition)
        for kind in (project.stream_views, project.batch_views, project.feature_sets)
        for definition in kind.values()
    ]
    return made + [_rekeyed(project, name) for name in project.config.rekeyed]


def _rekeyed(project: Project, name: str) -> DefinitionRecord:
    """A re-keyed stream by what decides where a row goes: published again, it must come to where it came before."""
    declared = project.config.rekeyed[name]
    parts = {"stream": declared.stream, "key": declared.key, "partitions": str(declared.partitions)}
    if declared.enrich:
        parts["enrich"] = ",".join(declared.enrich)
    for view in project.streams[name].enriched:
        if isinstance(view, StreamView):  # its meaning, and how late a row may be that has a value of it
            parts[f"view {view.name}"] = f"{record_of(view).fingerprint} {view.stream.allowed_lateness_us}"
    said = "\n".join(f"{part} {value}" for part, value in {**parts, "topic": project.streams[name].topic}.items())
    return DefinitionRecord(REKEYED_PREFIX + name, REKEYED, 1, _hash([REKEYED, said]), "", said, said)


def mark_of(view: StreamView) -> int:
    """The mark of the view's layout with every type as narrow as can be: the same however wide it is declared."""
    return Layout(_narrowest(view)).fingerprint


def record_of(definition: StreamView | BatchView | FeatureSet) -> DefinitionRecord:
    """One definition as the registry keeps it.

    Its fingerprint covers its own text and the columns it reads, but not the views a feature set joins: those have
    fingerprints of their own, and cannot change under their names once they have data. It is the same where a column
    was declared wider, or where others came, went or moved (``docs/semantics.md``).
    """
    reads = columns_of(definition)
    parts, state, mark = meaning(reads), "", ""
    if isinstance(definition, StreamView):
        kind, outputs = "streaming", definition.output_schema
        for branch, kept in zip(definition.reads, kept_branches(definition) or definition.reads, strict=True):
            made = [[list(cleaning.columns), cleaning.where] for cleaning in kept.cleanings]
            parts.append(json.dumps([branch.stream.name, branch.stream.event_time, made]))
        state = f"{mark_of(definition):x}"
        mark = _own_mark(definition)
        parts += _STRICTLY_BEFORE if definition.strictly_before else []
    elif isinstance(definition, BatchView):
        kind, outputs = "batch", definition.output_schema
        parts += [str(definition.every_us), *(f"{t.schema.name} {t.available_at}" for t in definition.tables)]
    else:
        kind, outputs = "feature set", definition.schema
    fingerprint = _hash([kind, *_tokens(definition.sql), *parts])
    version = family_of(definition.name)[1]
    sql, given = definition.sql, _fields(outputs)
    settings = [Read(SETTING, name, value, "") for name, value in settings_of(definition).items()]
    noted = as_text([*reads, *settings])
    return DefinitionRecord(definition.name, kind, version, fingerprint, state, sql, given, noted, mark)


def former_fingerprint(definition: StreamView | BatchView | FeatureSet) -> tuple[str, str]:
    """Fingerprint and state of a definition as they were registered when all declared columns were part of them."""
    state = ""
    if isinstance(definition, StreamView):
        kind = "streaming"
        streams = [branch.stream for branch in definition.reads]
        parts = [part for stream in streams for part in (_schema(stream.schema), stream.event_time)]
        parts += _STRICTLY_BEFORE if definition.strictly_before else []
        state = _own_mark(definition)
    elif isinstance(definition, BatchView):
        kind = "batch"
        parts = [str(definition.every_us), *(_schema(t.schema) + t.available_at for t in definition.tables)]
    else:
        kind = "feature set"
        named = {f"{owner}.{name}" for column in definition.columns for owner, name in column.references}
        parts = [f"{name} {type_}" for name, type_ in _inputs(definition) if name in named]
    return _hash([kind, *_tokens(definition.sql), *parts]), state


def _own_mark(view: StreamView) -> str:
    """The mark of the view's layout as it is declared now."""
    return f"{Layout(replace(view, state_mark=None)).fingerprint:x}"


def _narrowest(view: StreamView) -> StreamView:
    """The view with every type as narrow as it can be: one for all whose stored state is the same."""
    schema = view.stream.schema
    narrow = pa.schema([field.with_type(narrowest(field.type)) for field in schema.arrow])
    return replace(
        view,
        state_mark=None,
        stream=replace(view.stream, schema=replace(schema, arrow=narrow)),
        inputs=tuple(replace(i, type=narrowest(i.type)) for i in view.inputs),
        branches=kept_branches(view),
    )


def _inputs(features: FeatureSet) -> list[tuple[str, pa.DataType]]:
    views = tuple(f"{join.view}." for join in features.joins)
    return [(f.name if f.name.startswith(views) else f"{REQUEST}.{f.name}", f.type) for f in features.inputs]


def _tokens(sql: str) -> list[str]:
    """The text without comments and layout; keywords and names in lower case, as DuckDB reads them."""
    tokens = [token for token in sqlglot.tokenize(sql, dialect="duckdb") if token.text != ";"]
    literal = (sqlglot.TokenType.STRING, sqlglot.TokenType.IDENTIFIER)
    return [repr(t.text) if t.token_type in literal else t.text.lower() for t in tokens]


def _schema(schema: TableSchema) -> str:
    return f"{schema.name}({_fields(schema.arrow)})"


def _fields(schema: pa.Schema) -> str:
    return "\n".join(f"{field.name} {field.type}" for field in schema)


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
