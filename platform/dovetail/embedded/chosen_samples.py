"""Samples as one table: of some days, with some columns, for which a condition holds."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.features import Project
from dovetail.features.language.source import nearest
from dovetail.platform.duck.condition import Condition
from dovetail.platform.errors import ConfigError
from dovetail.samples import Reader

__all__ = ["chosen_samples"]


def chosen_samples(
    project: Project,
    *,
    days: tuple[str, str] | None,
    columns: Sequence[str],
    where: str | None,
    target: str,
    topic: bool,
) -> pa.Table:
    """See :meth:`~dovetail.embedded.project_client.ProjectClient.samples`."""
    if isinstance(columns, str):
        raise ConfigError(f"columns = {columns!r}: give a list of names")
    condition = None if where is None else Condition(where, "where")
    # A condition may name any column; without one, what is not wanted is not read.
    read = columns if condition is None else ()
    with Reader(project, days=days, columns=read, target=target, topic=topic) as reader:
        batches = [batch if condition is None else condition.choose(batch) for batch in reader]
    if not batches:
        return pa.table({})
    found = pa.concat_tables(batches, promote_options="permissive").combine_chunks()
    if missing := [name for name in columns if name not in found.column_names]:
        raise ConfigError(f"samples have no column {missing[0]!r}; {nearest(missing[0], found.column_names)}")
    return found.select(list(columns)) if columns else found
