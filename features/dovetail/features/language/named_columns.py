"""The columns of a stream that the text of a view names."""

from __future__ import annotations

from functools import lru_cache

from sqlglot import exp

from dovetail.features.language.source import Source
from dovetail.features.plan.definitions import Branch, StreamView

__all__ = ["columns_read"]


def columns_read(view: StreamView, branch: Branch | None = None) -> list[str]:
    """The columns of the branch's stream (default: the view's only one) that the view's text names, among them its
    entity and event time; all when it has a ``*``."""
    branch = branch or view.reads[0]
    names = branch.stream.schema.arrow.names
    named = _named(view.file, view.sql)
    if named is None:
        return list(names)
    always = {*view.entity, branch.stream.event_time}
    return [name for name in names if name.lower() in named or name in always]


@lru_cache(maxsize=1_024)
def _named(file: str, sql: str) -> frozenset[str] | None:
    """The names of columns in a view's text, in lower case; None when it has a ``*``."""
    select = Source(file, sql).select
    if any(not isinstance(star.parent, exp.Count) for star in select.find_all(exp.Star)):
        return None
    return frozenset(part.name.lower() for column in select.find_all(exp.Column) for part in column.parts)
