"""From slots back to names: why a row got its score, and how many values share a slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Float64, UInt64
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.samples.inputs import InputSpec

__all__ = ["BIAS", "collisions", "explain"]

#: How the bias is called in reports.
BIAS = "(bias)"


def explain(encoder: Encoder, weights: Float32, table: pa.Table, moments: Float64 | None = None) -> pa.Table:
    """The contribution of each input of each row to its margin, the largest first; those of a row sum to the margin.

    ``weights`` float32 [2**bits]. Columns: ``row`` int64, ``input`` string, ``value`` string (NULL where the column
    is), ``slot`` uint32, ``x`` float32 (the encoded value), ``weight`` float32, ``contribution`` float64. Absent inputs
    are left out. Made for a few rows: it formats every value in Python.

    :raises WireError: the table does not fit the encoder.
    :raises ModelError: the number of weights is not the encoder's.
    """
    if len(weights) != 1 << encoder.bits:
        raise ModelError(f"explain: {len(weights)} weights for an encoder of 2**{encoder.bits} slots; use its model's")
    slots, values = encoder.encode(table, moments)
    names, texts = [], []
    for spec, _ in encoder.places:
        names += [spec.name] * spec.width
        texts += _texts(spec, table)
    names.append(BIAS)
    texts.append([""] * table.num_rows)
    contributions = weights[slots].astype(np.float64) * values
    rows, places = np.nonzero(values)
    order = np.lexsort((places, -np.abs(contributions[rows, places]), rows))
    rows, places = rows[order], places[order]
    where = rows, places
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "input": pa.array([names[place] for place in places], pa.string()),
            "value": pa.array(
                [texts[place][row] for row, place in zip(rows.tolist(), places.tolist(), strict=True)], pa.string()
            ),
            "slot": slots[where],
            "x": values[where],
            "weight": weights[slots[where]],
            "contribution": contributions[where],
        }
    )


def collisions(encoder: Encoder, table: pa.Table) -> pa.Table:
    """How the values in ``table`` share slots, by input and, last, in total.

    Columns: ``input`` string, ``kind`` string, ``values`` int64 (different 64-bit hashes), ``slots`` int64 (different
    slots they fall into), ``colliding`` int64 (values whose slot another value, of any input, has too), ``share``
    float64 (colliding ÷ values). Two values of one 64-bit hash count as one; among a million that has a chance of 3e-8.

    :raises WireError: the table does not fit the encoder.
    """
    hashes = encoder.hashes(table)
    present = encoder.encode(table).values != 0
    mask = np.uint64((1 << encoder.bits) - 1)
    places = [(spec.name, spec.kind, place) for spec, place in encoder.places]
    # A standardised input is absent here, where no moments are given; it has one slot all the same.
    distinct = [_distinct(hashes[:, place][present[:, place] | (kind == "standardised")]) for _, kind, place in places]
    everything = _distinct(np.concatenate([np.empty(0, np.uint64), *distinct]))
    taken = np.sort(everything & mask)
    ends = [np.searchsorted(taken, everything & mask, side) for side in ("left", "right")]
    crowded = everything[ends[1] - ends[0] > 1]
    rows: list[tuple[str, str, UInt64]] = [
        (name, kind, own) for (name, kind, _), own in zip(places, distinct, strict=True)
    ]
    rows.append(("(all)", "", everything))
    return pa.Table.from_pylist(
        [
            {
                "input": name,
                "kind": kind,
                "values": len(own),
                "slots": len(_distinct(own & mask)),
                "colliding": (shared := int(np.isin(own, crowded, assume_unique=True, kind="sort").sum())),
                "share": shared / len(own) if len(own) else 0.0,
            }
            for name, kind, own in rows
        ],
        schema=pa.schema(
            [("input", pa.string()), ("kind", pa.string())]
            + [(name, pa.int64()) for name in ("values", "slots", "colliding")]
            + [("share", pa.float64())]
        ),
    )


def _distinct(numbers: UInt64) -> UInt64:
    """As numpy.unique, whose hash table takes seconds for a million hashes."""
    ordered = np.sort(numbers)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def _texts(spec: InputSpec, table: pa.Table) -> list[Sequence[str | None]]:
    """For each place of an input, the text of every row's value."""
    columns = [table.column(name).to_pylist() for name in spec.reads]
    if spec.kind == "cross":
        return [["*".join(str(value) for value in row) for row in zip(*columns, strict=True)]]
    if spec.kind == "list":
        return [[_element(row, place) for row in columns[0]] for place in range(spec.length)]
    return [[None if value is None else str(value) for value in columns[0]]]


def _element(elements: list[object] | None, place: int) -> str | None:
    if not elements:
        return None if elements is None else "[]"
    if place >= len(elements):
        return None
    element = elements[place]
    return str(next(iter(element.values())) if isinstance(element, dict) else element)
