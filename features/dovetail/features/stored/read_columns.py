"""The columns that a definition reads: what of the declared schemas its meaning is made of.

A column that a definition does not read may come, go, move and change as it likes. One that it reads keeps its name and
its type, or, where no value depends on it (:mod:`~dovetail.features.stored.widths`), becomes wider.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import sqlglot

from dovetail.features.duck.parsing import query_tree
from dovetail.features.duck.trees import nodes
from dovetail.features.language.named_columns import columns_read
from dovetail.features.language.source import quoted
from dovetail.features.language.ties import names_an_order
from dovetail.features.plan.aggregates import DEVIATIONS, SHAPES
from dovetail.features.plan.definitions import (
    Aggregate,
    BatchView,
    Branch,
    Cleaning,
    FeatureSet,
    Stream,
    StreamView,
)
from dovetail.features.plan.request import REQUEST
from dovetail.features.stored.members import Paths, beside, members_named, only
from dovetail.features.stored.widths import Passage, columns_named, kind_of, passage, widens

__all__ = [
    "SETTING",
    "Read",
    "as_text",
    "changed",
    "columns_of",
    "kept_branches",
    "meaning",
    "narrowest",
    "struct_members",
]

#: The relation of what is no column: a setting of ``dovetail.toml``, kept to be shown.
SETTING = ""
_MADE_ANEW = frozenset({"count", "sum", "avg", "count_distinct", *DEVIATIONS, *SHAPES})


class Read(NamedTuple):
    """A column that is read: of a stream, table or view, or of ``request``; its Arrow type as text.

    ``kind`` is what of the type the values depend on: all of it, or what
    :func:`~dovetail.features.stored.widths.kind_of` says; nothing of a column that ``SELECT *`` merely hands on, nor of
    a member of a STRUCT of a request, ``column.member``, that nothing reads.
    """

    relation: str
    column: str
    type: str
    kind: str


def columns_of(definition: StreamView | BatchView | FeatureSet) -> list[Read]:
    """The columns that a definition reads, in an order that does not depend on how they are declared."""
    if isinstance(definition, StreamView):
        found = list(_of_stream_view(definition))
    elif isinstance(definition, BatchView):
        found = list(_of_batch_view(definition))
    else:
        found = list(_of_feature_set(definition))
    return sorted(set(found))


def as_text(reads: Sequence[Read]) -> str:
    """``reads`` as the registry keeps them."""
    return json.dumps([list(read) for read in reads])


def struct_members(views: Iterable[StreamView], stream: Stream) -> dict[str, pa.DataType]:
    """The STRUCT columns of ``stream`` with the members that ``views`` read, of which they do not read all.

    What is in a file under another name or type than those may have been anything when it was written.
    """
    schema, found = stream.schema.arrow, dict[str, Paths]()
    for view in views:
        for branch in (branch for branch in view.reads if branch.stream.name == stream.name):
            members = _members(view, branch)
            for column in columns_read(view, branch):
                found[column] = found.get(column, frozenset()) | members.get(column, frozenset({()}))
    whole = frozenset({()})
    return {
        field.name: only(field.type, found.get(field.name, whole))
        for field in schema
        if pa.types.is_struct(field.type) and () not in found.get(field.name, whole)
    }


def meaning(reads: Sequence[Read]) -> list[str]:
    """The part of ``reads`` that a definition's meaning is made of: equal where columns are wider."""
    return [json.dumps([read.relation, read.column, read.kind]) for read in reads if read.kind]


def changed(before: str, after: str) -> list[str]:
    """The columns that are read as another type than before, and not as a wider one; texts of :func:`as_text`."""
    old, new = ({(r, c): t for r, c, t, _ in json.loads(text or "[]") if r != SETTING} for text in (before, after))
    return [
        f"{relation}.{column} {type_} -> {new[relation, column]}"
        for (relation, column), type_ in old.items()
        if (relation, column) in new and not widens(type_, new[relation, column])
    ]


def kept_branches(view: StreamView) -> tuple[Branch, ...]:
    """The view's branches without what they make and nobody reads: ``SELECT *`` makes every column."""
    return tuple(replace(branch, cleanings=_kept(view, branch)) for branch in view.branches)


def narrowest(type_: pa.DataType) -> pa.DataType:
    """The narrowest type of the same kind: one for all that are wider forms of each other."""
    if pa.types.is_signed_integer(type_):
        return pa.int8()
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(narrowest(field.type)) for field in type_])
    return pa.decimal128(max(type_.scale, 1), type_.scale) if isinstance(type_, pa.Decimal128Type) else type_


def _read(
    relation: str,
    fields: pa.Schema,
    columns: Iterable[str],
    noticed: Iterable[str],
    members: Mapping[str, Paths],
) -> Iterator[Read]:
    """The columns, of a STRUCT the members that are read."""
    exactly = set(noticed)
    for column in columns:
        paths = members.get(column) or frozenset({()})
        type_ = only(fields.field(column).type, paths)
        yield Read(relation, column, str(type_), str(type_) if column in exactly else kind_of(type_))


def _unread(relation: str, fields: pa.Schema, columns: Iterable[str], members: Mapping[str, Paths]) -> Iterator[Read]:
    """The members of STRUCT columns that are not read, noted for :func:`changed` alone."""
    for column in columns:
        for member, unread in beside(fields.field(column).type, members.get(column) or frozenset({()})):
            yield Read(relation, f"{column}{member}", str(unread), "")


# --- streaming views --------------------------------------------------------------------------------------------------


def _of_stream_view(view: StreamView) -> Iterator[Read]:
    named, noticed = _of_relation(view)
    for branch in view.reads:
        mine, exactly = named, noticed
        for cleaning in reversed(_kept(view, branch)):
            mine, exactly = _below(cleaning, exactly)
        schema = branch.stream.schema.arrow
        mine |= {branch.stream.event_time}
        yield from _read(branch.stream.name, schema, mine, exactly, _members(view, branch))
        handed_on = set(columns_read(view, branch)) - mine if view.branches else set[str]()
        yield from (Read(branch.stream.name, name, str(schema.field(name).type), "") for name in handed_on)


def _of_relation(view: StreamView) -> tuple[frozenset[str], frozenset[str]]:
    """The columns of the view's relation that it reads, and those among them whose width shows in a value."""
    names = view.stream.schema.arrow.names
    read = (columns_named(text, names) for text in _texts(view))
    named = frozenset({*view.entity, view.stream.event_time}).union(*read)
    arguments = [passage(i.argument, names) for i in view.inputs]
    whole = Passage()
    for text in (view.where, *(i.filter for i in view.inputs)):
        whole |= passage(text, names)
    for argument in arguments:
        whole |= argument
    carried = {a.output: _carried(a, arguments) for a in view.aggregates}
    noticed = set(whole.noticed)
    for derived in view.derived:
        for output in passage(derived.sql, list(carried)).noticed:
            noticed |= carried[output]
    return named, frozenset(noticed)


def _members(view: StreamView, branch: Branch) -> Mapping[str, Paths]:
    """The members that the view reads of the columns of a branch's stream."""
    first = next(iter(_kept(view, branch)), None)
    texts = _texts(view) if first is None else [first.where, *(sql for _, sql in first.columns)]
    return members_named(texts, branch.stream.schema.arrow.names)


def _texts(view: StreamView) -> list[str | None]:
    """The expressions of the view over its relation."""
    return [view.where, *(i.filter for i in view.inputs), *(i.argument for i in view.inputs)]


def _carried(aggregate: Aggregate, arguments: Sequence[Passage]) -> frozenset[str]:
    """The columns whose width shows in the type of an aggregate."""
    return frozenset() if aggregate.function in _MADE_ANEW else arguments[aggregate.input].carried


def _kept(view: StreamView, branch: Branch) -> tuple[Cleaning, ...]:
    """The cleanings of a branch, of columns that are merely handed on those that are read further on."""
    wanted, _ = _of_relation(view)
    kept: list[Cleaning] = []
    for cleaning in reversed(branch.cleanings):
        handed_on = {quoted(name) for name in cleaning.reads.names}
        columns = tuple(sorted((n, sql) for n, sql in cleaning.columns if n in wanted or sql not in handed_on))
        gives = pa.schema([cleaning.gives.field(name) for name, _ in columns])
        kept.insert(0, replace(cleaning, columns=columns, gives=gives))
        wanted, _ = _below(kept[0], frozenset())
    return tuple(kept)


def _below(cleaning: Cleaning, noticed: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The columns that a cleaning reads, and those whose width shows, where ``noticed`` are such columns of its own."""
    names = cleaning.reads.names
    whole = passage(cleaning.where, names)
    read = set(columns_named(cleaning.where, names))
    exactly = set(whole.noticed)
    for name, sql in cleaning.columns:
        passed = passage(sql, names)
        exactly |= passed.noticed | (passed.carried if name in noticed else frozenset())
        read |= columns_named(sql, names)
    return frozenset(read), frozenset(exactly)


# --- batch views and feature sets -------------------------------------------------------------------------------------


def _of_batch_view(view: BatchView) -> Iterator[Read]:
    """A batch view is any query, so its columns keep their types, and where it may read all, their order."""
    words = {token.text.lower() for token in sqlglot.tokenize(view.sql, dialect="duckdb")}
    reads_all = names_an_order(view.sql) or _reads_whole_rows(view)
    for table in view.tables:
        fields = table.schema.arrow
        for place, field in enumerate(fields):
            if reads_all or field.name.lower() in words or field.name == table.available_at:
                kind = f"{place} {field.type}" if reads_all else str(field.type)
                yield Read(table.schema.name, field.name, str(field.type), kind)


def _reads_whole_rows(view: BatchView) -> bool:
    """Whether a query may read columns that it does not name: ``*``, NATURAL, a table as a value."""
    whole = {table.schema.name.lower() for table in view.tables}
    found = list(nodes(query_tree(view.sql)))
    whole |= {str(node["alias"]).lower() for node in found if node.get("type") == "BASE_TABLE" and node.get("alias")}
    for node in found:
        names = node.get("column_names", ())
        if node.get("class") == "STAR" or node.get("ref_type") == "NATURAL" or "PIVOT" in str(node.get("type")):
            return True
        if len(names) == 1 and str(names[0]).lower() in whole:
            return True
    return False


def _of_feature_set(features: FeatureSet) -> Iterator[Read]:
    names = features.inputs.names
    named, whole = set[str](), Passage()
    for column in features.columns:
        named |= {name if owner == REQUEST else f"{owner}.{name}" for owner, name in column.references}
        whole |= passage(column.resolved, names)
    named |= {name for join in features.joins for name in join.entity if name in names}
    views: Mapping[str, str] = {f"{join.view}.": join.view for join in features.joins}
    members = members_named((column.resolved for column in features.columns), names)
    columns = sorted(named)
    reads = _read(REQUEST, features.inputs, columns, whole.noticed, members)
    for read in chain(reads, _unread(REQUEST, features.inputs, columns, members)):
        prefix = next((prefix for prefix in views if read.column.startswith(prefix)), None)
        if prefix is None:
            yield read
        else:
            yield read._replace(relation=views[prefix], column=read.column.removeprefix(prefix))
