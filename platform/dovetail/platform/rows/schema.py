"""Row schemas, declared as ``CREATE TABLE`` in ``sql/`` and turned into Arrow schemas.

One declaration serves the wire (what a message must look like), the stream engine and DuckDB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import sqlglot
from sqlglot import Token, exp

from dovetail.platform.errors import DefinitionError

__all__ = ["TableSchema", "line_of", "parse_statements", "parse_table", "tokens_in"]

_SIMPLE: dict[object, pa.DataType] = {
    exp.DataType.Type.BOOLEAN: pa.bool_(),
    exp.DataType.Type.TINYINT: pa.int8(),
    exp.DataType.Type.SMALLINT: pa.int16(),
    exp.DataType.Type.INT: pa.int32(),
    exp.DataType.Type.BIGINT: pa.int64(),
    exp.DataType.Type.FLOAT: pa.float32(),
    exp.DataType.Type.DOUBLE: pa.float64(),
    exp.DataType.Type.TEXT: pa.string(),
    exp.DataType.Type.VARCHAR: pa.string(),
    exp.DataType.Type.DATE: pa.date32(),
    exp.DataType.Type.TIMESTAMP: pa.timestamp("us"),
    exp.DataType.Type.TIMESTAMPNTZ: pa.timestamp("us"),
}
_SUPPORTED = (
    "BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), VARCHAR, DATE, TIMESTAMP, "
    "STRUCT(...) and T[]"
)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A declared table: its name, where it is declared, and its Arrow schema (NOT NULL columns are not nullable)."""

    name: str
    file: str
    line: int
    arrow: pa.Schema

    def __hash__(self) -> int:
        # An Arrow schema hashes its text, at length; names tell most apart.
        return hash((self.name, self.file, self.line, *self.arrow.names))

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the NOT NULL columns."""
        return tuple(field.name for field in self.arrow if not field.nullable)

    def field(self, column: str, *, wanted_by: str) -> pa.Field:
        """The field named ``column``; a :class:`DefinitionError` naming ``wanted_by`` when there is none."""
        if column not in self.arrow.names:
            raise DefinitionError(
                f"{wanted_by} needs column {column!r}, which table {self.name} does not have "
                f"(it has {', '.join(self.arrow.names)})",
                file=self.file,
                line=self.line,
                remedy=f"add {column} to CREATE TABLE {self.name} or correct the name",
            )
        return self.arrow.field(column)


def tokens_in(file: Path, text: str) -> list[Token]:
    """The tokens of a SQL file.

    Raises:
        DefinitionError: the text is not DuckDB SQL.
    """
    try:
        return list(sqlglot.tokenize(text, dialect="duckdb"))
    except sqlglot.errors.TokenError as error:
        raise DefinitionError(
            f"not valid SQL: {error}", file=file, line=1, remedy="complete what stands before it, in DuckDB's dialect"
        ) from error


def parse_statements(file: Path, text: str, tokens: Sequence[Token] | None = None) -> list[exp.Expr]:
    """All statements of a SQL file, each remembering its line; of ``tokens``, some of the text's, where they are given.

    Raises:
        DefinitionError: the text is not DuckDB SQL; the message has the parser's line.
    """
    found = list(tokens_in(file, text) if tokens is None else tokens)
    try:
        parsed = sqlglot.Dialect.get_or_raise("duckdb").parser().parse(found, text)
    except sqlglot.errors.ParseError as error:
        details = error.errors[0] if error.errors else {}
        raise DefinitionError(
            f"not valid SQL at {details.get('highlight') or 'its end'}",
            file=file,
            line=int(details.get("line") or 1),
            remedy="complete what stands before it, in DuckDB's dialect; a name that is a keyword needs double quotes",
        ) from error
    return [statement for statement in parsed if statement is not None and not isinstance(statement, exp.Semicolon)]


def line_of(node: exp.Expr) -> int:
    """The first source line found in ``node`` or below it, 1 when the parser kept none."""
    lines = [int(part.meta["line"]) for part in node.walk() if "line" in part.meta]
    return min(lines, default=1)


def parse_table(statement: exp.Expr, file: Path) -> TableSchema:
    """The schema a ``CREATE TABLE`` declares.

    Raises:
        DefinitionError: a column has no type or an unsupported one, or there are no columns.
    """
    body = statement.this
    line = line_of(statement)
    if not isinstance(body, exp.Schema) or not body.expressions:
        raise DefinitionError(
            "CREATE TABLE without a column list", file=file, line=line, remedy="list the columns with their types"
        )
    fields = []
    for column in body.expressions:
        if not isinstance(column, exp.ColumnDef) or column.kind is None:
            raise DefinitionError(
                f"{column.sql(dialect='duckdb')} is not a column with a type",
                file=file,
                line=line_of(column),
                remedy="declare columns as `name TYPE [NOT NULL]`; table constraints are not used",
            )
        not_null = any(
            isinstance(c.kind, exp.NotNullColumnConstraint | exp.PrimaryKeyColumnConstraint) for c in column.constraints
        )
        fields.append(pa.field(column.name, _arrow_type(column.kind, column, file), nullable=not not_null))
    return TableSchema(body.this.name, str(file), line, pa.schema(fields))


def _arrow_type(kind: exp.DataType, column: exp.ColumnDef, file: Path) -> pa.DataType:
    simple = _SIMPLE.get(kind.this)
    if simple is not None:
        return simple
    if kind.this == exp.DataType.Type.DECIMAL:
        precision, scale = ([int(p.name) for p in kind.expressions] + [18, 3][len(kind.expressions) :])[:2]
        if len(kind.expressions) == 1:
            scale = 0
        if precision <= 18:
            return pa.decimal128(precision, scale)
        raise DefinitionError(
            f"column {column.name} is DECIMAL({precision},{scale}); more than 18 digits do not fit the exact engine",
            file=file,
            line=line_of(column),
            remedy="declare DECIMAL(18,s) or less",
        )
    if kind.this in (exp.DataType.Type.ARRAY, exp.DataType.Type.LIST):
        if kind.args.get("values"):
            element, sized = (each.sql(dialect="duckdb") for each in (kind.expressions[0], kind))
            raise DefinitionError(
                f"column {column.name} has type {sized}, an array of a fixed size; columns are lists, of any length",
                file=file,
                line=line_of(column),
                remedy=f"declare {element}[]; a definition that needs the size writes CAST({column.name} AS {sized}), "
                "and an event with another length is a dead letter",
            )
        return pa.list_(_arrow_type(kind.expressions[0], column, file))
    if kind.this == exp.DataType.Type.STRUCT:
        members = [
            pa.field(member.name, _arrow_type(member.kind or member.args["kind"], column, file))
            for member in kind.expressions
        ]
        return pa.struct(members)
    raise DefinitionError(
        f"column {column.name} has type {kind.sql(dialect='duckdb')}, which is not supported",
        file=file,
        line=line_of(column),
        remedy=f"use one of {_SUPPORTED}",
    )
