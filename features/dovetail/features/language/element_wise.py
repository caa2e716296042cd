"""Arrays added up element by element: ``sum_each(list(x) OVER w)`` read as an aggregate per element."""

from __future__ import annotations

from typing import NamedTuple, cast

import pyarrow as pa
from sqlglot import exp

from dovetail.features.language.calls import AggregateReader
from dovetail.features.language.source import Call
from dovetail.features.plan.aggregates import refusal, result_type
from dovetail.features.plan.definitions import Aggregate, AggregateFunction
from dovetail.features.plan.type_names import sql_type

__all__ = ["ELEMENT_WISE", "ElementReader", "Elements"]

#: Macros over the arrays of a window, and the aggregate of the elements at each place.
ELEMENT_WISE: dict[str, AggregateFunction] = {"sum_each": "sum", "avg_each": "avg"}


class Elements(NamedTuple):
    """One call taken apart: how many arrays the window has, and an aggregate per place in them."""

    arrays: Aggregate
    places: tuple[Aggregate, ...]


class ElementReader(AggregateReader):
    """An :class:`~dovetail.features.language.calls.AggregateReader` that also reads calls of :data:`ELEMENT_WISE`."""

    def read_each(self, call: Call, output: str) -> Elements:
        """The aggregates that ``call`` is made of; their columns are called ``output`` and a number.

        Raises:
            DefinitionError: no list of arrays of one size whose elements can be added exactly, or a window outside the
                language.
        """
        source, spans, macro = self.source, self.source.aggregate(call.aggregate), call.macro or ""
        function = ELEMENT_WISE[macro]
        if spans.function != "list" or len(source.arguments(spans.argument)) != 1 or call.rest is not None:
            raise source.refuse(call.line, f"{macro} of {source.cut(call.aggregate)}", f"write {macro}(list(x) OVER w)")
        node = cast("exp.Window", source.parse(call.aggregate))
        exp.Alias(this=node, alias=exp.to_identifier(output))
        filter_ = None if spans.filter is None else self._expression(call, spans.filter, macro)
        argument, type_ = self._argument(call, spans.argument, macro)
        written, cast_to = source.cut(spans.argument), "DECIMAL(12,6)"
        if pa.types.is_fixed_size_list(type_):
            why = refusal(function, type_.value_type, None)
            if why is None:
                window = self._window(self._read_window(spans.function, call, node))
                present = f"({argument}\n) IS NOT NULL"
                both = present if filter_ is None else f"({filter_}\n) AND {present}"
                arrays = Aggregate(output, "count", self._input(None, both, pa.int64()), window, pa.int64())
                element, size = type_.value_type, type_.list_size
                given = result_type(function, element, None, None)
                inputs = [self._input(f"({argument}\n)[{n}]", filter_, element) for n in range(1, size + 1)]
                places = [Aggregate(f"{output}_{n}", function, at, window, given) for n, at in enumerate(inputs, 1)]
                return Elements(arrays, tuple(places))
            reason, size = f" of {sql_type(type_.value_type)}s{why.why}", type_.list_size
        else:
            reason, size = " is no array of a fixed size", "n"
            if pa.types.is_list(type_) and refusal(function, type_.value_type, None) is None:
                cast_to = sql_type(type_.value_type)
        raise source.refuse(
            call.line,
            f"{macro}: {written}{reason}",
            f"write {macro}(list(CAST({written} AS {cast_to}[{size}])) OVER w)",
        )
