"""Declarations of a kind of labels beyond its time: columns for samples, and kinds that take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dovetail.platform.config.policy import LabelConfig
from dovetail.platform.config.stream import Aggregate
from dovetail.platform.rows.schema import TableSchema

__all__ = ["KindRule", "LabelNeeds", "ValueColumn", "rules_of"]

_SUM_DIGITS = 38


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """A column of a kind's labels that samples have, as ``name``: what ``aggregate`` makes of all labels that count.

    ``declared`` is the column's type. NULLs are left out; a sample without any value has NULL.
    """

    name: str
    column: str
    aggregate: Aggregate
    declared: pa.DataType

    @property
    def type(self) -> pa.DataType:
        """The type in samples: that of the column; of a sum, a decimal of 38 digits with its scale."""
        if self.aggregate != "sum":
            return self.declared
        return pa.decimal128(_SUM_DIGITS, self.declared.scale if pa.types.is_decimal(self.declared) else 0)


@dataclass(frozen=True, slots=True)
class KindRule:
    """A kind of labels: its columns for samples, and the kinds whose labels take its labels back.

    ``takes_back`` says whether its own labels take back those of another kind.
    """

    kind: str
    values: tuple[ValueColumn, ...] = ()
    taken_back_by: tuple[str, ...] = ()
    takes_back: bool = False

    @property
    def counted(self) -> bool:
        """Whether its labels are counted one by one: it has columns, or is taken back."""
        return bool(self.values or self.taken_back_by)

    @property
    def whole(self) -> bool:
        """Whether every label of the kind is kept, and not the first of its key alone."""
        return self.counted or self.takes_back


class LabelNeeds(NamedTuple):
    """The needs of those who read labels of a kind: the ``rule`` by which they are kept.

    A label that the stream knew of ``useful_us`` after its event time is late for every snapshot.
    """

    rule: KindRule
    useful_us: int


def rules_of(labels: LabelConfig, schemas: Mapping[str, TableSchema]) -> dict[str, KindRule]:
    """The rule of each kind, in the order declared; ``schemas`` are those of the kinds."""
    taken_back: dict[str, list[str]] = {}
    for kind, stream in labels.streams.items():
        if stream.retracts is not None:
            taken_back.setdefault(stream.retracts, []).append(kind)
    return {
        kind: KindRule(
            kind,
            tuple(
                ValueColumn(f"{kind}_{column}", column, aggregate, schemas[kind].arrow.field(column).type)
                for column, aggregate in stream.values.items()
            ),
            tuple(taken_back.get(kind, ())),
            stream.retracts is not None,
        )
        for kind, stream in labels.streams.items()
    }
