"""The request relation: what ``FROM request`` means, or ``FROM`` another table of requests that a scene names.

``CREATE TABLE request`` declares a ranking call as it travels: ``request_id``, ``request_time``, context columns, and
``candidates STRUCT(item_id …, …)[]``. In a feature set it is one row per candidate: the request's columns without
``candidates``, then the struct's members.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.plan.definitions import REQUEST
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema

__all__ = [
    "CANDIDATE",
    "CANDIDATES",
    "REQUEST",
    "check_request",
    "flatten_requests",
    "request_schema",
    "request_starts",
]

CANDIDATES = "candidates"
#: Column that :func:`flatten_requests` adds: int32, the candidate's place in its request, from 0.
CANDIDATE = "_candidate"


def check_request(schema: TableSchema) -> None:
    """Refuse a request table that cannot be ranked.

    Raises:
        DefinitionError: a missing or nullable column, a wrong type, or a name used both outside and inside candidates.
    """

    def refuse(what: str, remedy: str) -> DefinitionError:
        return DefinitionError(what, file=schema.file, line=schema.line, remedy=remedy)

    for column, type_ in (("request_id", None), ("request_time", pa.timestamp("us")), (CANDIDATES, None)):
        field = schema.field(column, wanted_by="the request relation")
        if field.nullable:
            raise refuse(f"{schema.name}.{column} may be NULL", f"declare {column} NOT NULL")
        if type_ is not None and field.type != type_:
            raise refuse(f"{schema.name}.{column} is {field.type}", f"declare {column} TIMESTAMP NOT NULL")
    candidates = schema.arrow.field(CANDIDATES).type
    if not pa.types.is_list(candidates) or not pa.types.is_struct(candidates.value_type):
        raise refuse(f"{schema.name}.candidates is {candidates}", "declare candidates STRUCT(item_id …)[] NOT NULL")
    members = [member.name for member in candidates.value_type]
    if "item_id" not in members:
        raise refuse(f"{schema.name}.candidates has no member item_id", "add item_id to the STRUCT")
    outside = {name.lower() for name in schema.arrow.names}
    doubled = [name for name in members if name.lower() in outside]
    own = [name for name in members if name.startswith("_")]
    if own:
        raise refuse(f"{schema.name}.candidates has a reserved member {own[0]}", "rename it: such names are positions")
    if doubled:
        raise refuse(f"{doubled[0]} is both a request column and a candidate member", "rename one of them")


def request_schema(schema: TableSchema) -> pa.Schema:
    """The flat schema: the request's columns without ``candidates``, then the candidates' members."""
    outside = [field for field in schema.arrow if field.name != CANDIDATES]
    return pa.schema([*outside, *schema.arrow.field(CANDIDATES).type.value_type])


def request_starts(candidates: pa.Table) -> npt.NDArray[np.int64]:
    """The rows at which requests begin in ``candidates``, ascending int64; they are whole requests, flattened.

    Where rows do not say which candidate they are, each is taken for a request of its own.
    """
    if CANDIDATE not in candidates.column_names:
        return np.arange(candidates.num_rows, dtype=np.int64)
    begins = np.asarray(candidates.column(CANDIDATE).to_numpy()) == 0
    begins[:1] = True
    return np.flatnonzero(begins).astype(np.int64)


def flatten_requests(requests: pa.Table) -> pa.Table:
    """One row per candidate, in the order of requests and, within one, of its candidates.

    Every column but ``candidates`` is repeated (the position columns too), the struct's members follow, and last
    comes ``_candidate``, int32, the candidate's place in its request. A request without candidates gives no row.
    """
    candidates = requests.column(CANDIDATES).combine_chunks()
    parents = pc.list_parent_indices(candidates)
    flat = pc.list_flatten(candidates)
    outside = requests.drop_columns([CANDIDATES]).combine_chunks().take(parents)
    index = np.asarray(parents, dtype=np.int64)
    starts = np.searchsorted(index, index, side="left")
    places = pa.array((np.arange(len(index)) - starts).astype(np.int32))
    members = [pc.struct_field(flat, [i]) for i in range(flat.type.num_fields)]
    fields = [*outside.schema, *flat.type, pa.field(CANDIDATE, pa.int32(), nullable=False)]
    return pa.Table.from_arrays([*outside.columns, *members, places], schema=pa.schema(fields))
