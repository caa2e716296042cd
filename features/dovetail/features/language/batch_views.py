"""A SELECT over offline tables, read as a :class:`~dovetail.features.plan.definitions.BatchView`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
from sqlglot import exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError, functions_called
from dovetail.features.language.remedies import remedy_of
from dovetail.features.language.source import Source, nearest
from dovetail.features.language.ties import undecided
from dovetail.features.plan.definitions import BatchView, Table

__all__ = ["parse_batch_view"]

#: Aggregates that answer with whichever row comes first.
_ARBITRARY = frozenset({"any_value", "arbitrary", "first", "last"})


def parse_batch_view(
    name: str, source: Source, tables: Mapping[str, Table], others: Sequence[str], every_us: int, binder: Binder
) -> BatchView:
    """The plan of a batch view.

    The entity is GROUP BY's columns; without GROUP BY, the first output column. ``others`` are names that exist but
    are not offline tables.

    Raises:
        DefinitionError: it reads something else than offline tables, calls what is arbitrary, or does not bind.
    """
    select = source.select
    used = _tables_used(source, tables, others)
    arbitrary = sorted(functions_called(source.text) & _ARBITRARY)
    if arbitrary:
        raise source.refuse(
            _call(select, arbitrary[0]),
            f"{arbitrary[0]} takes an arbitrary row, another one each time",
            "use min, max, or arg_max(x, {'y': y, 'x': x}), which is decided",
        )
    tied = undecided(source.text)
    if tied is not None:
        raise source.refuse(
            _call(select, tied.name),
            f"{tied.name} in a batch view leaves ties to whichever row the file has first",
            tied.remedy,
        )
    for clause in ("limit", "sample"):
        if select.args.get(clause):
            raise source.refuse(select.args[clause], f"{clause.upper()} in a batch view", "select by a condition")
    try:
        bound = binder.describe(source.text.rstrip().rstrip(";"))
    except BindError as error:
        raise source.refuse(select, str(error), remedy_of(error)) from error
    names = [name.lower() for name in select.named_selects]
    doubled = [name for name in select.named_selects if names.count(name.lower()) > 1]
    if doubled:
        raise source.refuse(select, f"two outputs named {doubled[-1]}", "rename one with AS")
    own = next((name for name in bound.names if name.startswith("_")), None)
    if own is not None:
        raise source.refuse(select, f"an output named {own}", "rename it with AS: names of its own begin with _")
    entity = _entity(source, bound)
    return BatchView(
        name=name,
        file=source.file,
        line=source.line(select),
        sql=source.text,
        tables=used,
        entity=entity,
        every_us=every_us,
        output_schema=pa.schema([field for field in bound if field.name not in entity]),
        entity_types=tuple(bound.field(column).type for column in entity),
    )


def _tables_used(source: Source, tables: Mapping[str, Table], others: Sequence[str]) -> tuple[Table, ...]:
    named = {cte.alias.lower() for cte in source.select.find_all(exp.CTE)}
    known = {key.lower(): table for key, table in tables.items()}
    used: dict[str, Table] = {}
    for table in source.select.find_all(exp.Table):
        key = table.name.lower()
        if key in named:
            continue
        if not isinstance(table.this, exp.Identifier) or key not in known:
            shown = table.name or table.sql(dialect="duckdb")
            what = f"{shown} is not an offline table" if key in {o.lower() for o in others} else f"no table {shown}"
            raise source.refuse(table, what, _remedy(shown, list(tables), others))
        used[key] = known[key]
    if not used:
        raise source.refuse(source.select, "a view that reads nothing", "read a stream, an offline table or request")
    return tuple(used.values())


def _remedy(name: str, tables: Sequence[str], others: Sequence[str]) -> str:
    """What to read instead of ``name``: an offline table, or a stream that it is a misspelling of."""
    meant = nearest(name, list(dict.fromkeys([*tables, *others])))
    if meant.startswith("did you mean") and not any(meant == f"did you mean {table}?" for table in tables):
        exists = any(name.lower() == other.lower() for other in others)
        if not exists:
            return meant
    return f"{nearest(name, tables)}; batch views read [tables.*] of dovetail.toml"


def _entity(source: Source, bound: pa.Schema) -> tuple[str, ...]:
    group = source.select.args.get("group")
    if group is None:
        return (bound.names[0],)
    outputs = {name.lower(): name for name in bound.names}
    entity = []
    for key in group.expressions:
        if isinstance(key, exp.Literal):
            entity.append(bound.names[int(key.name) - 1])
        elif isinstance(key, exp.Column) and key.name.lower() in outputs:
            entity.append(outputs[key.name.lower()])
        else:
            raise source.refuse(
                key, f"GROUP BY {key.sql(dialect='duckdb')} is no output column", "select it, under its own name"
            )
    if not entity:
        raise source.refuse(group, "GROUP BY without plain columns", "name the entity's columns in GROUP BY")
    return tuple(entity)


def _call(select: exp.Expr, name: str) -> exp.Expr:
    calls = (node for node in select.find_all(exp.Func) if node.sql(dialect="duckdb").lower().startswith(name))
    return next(calls, select)
