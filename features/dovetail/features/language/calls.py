"""One call of a window aggregate, read as an :class:`~dovetail.features.plan.definitions.Aggregate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import pyarrow as pa
from sqlglot import exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError
from dovetail.features.language.remedies import remedy_of, remedy_of_list
from dovetail.features.language.source import (
    Call,
    Source,
    Span,
    quoted,
)
from dovetail.features.language.windows import read_window
from dovetail.features.plan.aggregates import (
    BY_KEY,
    DEVIATIONS,
    MAX_LISTED,
    MAX_SEQUENCE,
    SHAPES,
    refusal,
    result_type,
)
from dovetail.features.plan.definitions import (
    Aggregate,
    AggregateFunction,
    Input,
    Stream,
    Window,
)
from dovetail.features.plan.type_names import sql_type
from dovetail.platform.errors import DefinitionError

__all__ = ["MACROS_OF_AGGREGATES", "AggregateReader"]

#: Macros whose first argument is a window aggregate, and that aggregate's name.
MACROS_OF_AGGREGATES: Mapping[str, str] = {
    "first_distinct": "list",
    "last_distinct": "list",
    "newest": "list",
    "top_k": "histogram",
    "histogram_each": "list",
    "sum_each": "list",
    "avg_each": "list",
    **dict.fromkeys(BY_KEY, "list"),
}
_NAMES: Mapping[str, AggregateFunction] = {
    **{
        name: name for name in ("count", "sum", "avg", "min", "max", "first", "last", "histogram", *DEVIATIONS, *SHAPES)
    },
    "mean": "avg",
    "stddev": "stddev_samp",
    "variance": "var_samp",
    "nth_value": "nth_oldest",
    "lag": "nth_newest",
    "first_value": "first",
    "last_value": "last",
    **dict.fromkeys(("arg_min", "argmin", "min_by"), "arg_min"),
    **dict.fromkeys(("arg_max", "argmax", "max_by"), "arg_max"),
}
_ORDER_FREE = "use arg_max(x, event_time) for the latest value or arg_min(x, event_time) for the first"
_LATEST = (
    "write arg_max(x, event_time) FILTER (WHERE …) OVER w, or with NULLs newest(list(x) FILTER (WHERE …) OVER w, 1)[1]"
)
_FIRST = "write arg_min(x, event_time) FILTER (WHERE …) OVER w"
#: Functions that DuckDB has no FILTER for: what to write.
_FILTERED: Mapping[str, str] = {
    **dict.fromkeys(("last", "last_value"), _LATEST),
    **dict.fromkeys(("first", "first_value"), _FIRST),
    "nth_value": "write arg_min(x, event_time, n) FILTER (WHERE …) OVER w, and take [n] of it; from the end "
    "newest(list(x) FILTER (WHERE …) OVER w, n)",
    "lag": "write newest(list(x) FILTER (WHERE …) OVER w, n), w unbounded, and take [n] of it",
}
_EXACT_BANDS = "count exactly in bands: histogram(x // 10), or count(*) FILTER (WHERE x < 10)"
#: Aggregates that are refused for a reason of their own: why, and what to write.
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("any_value", "arbitrary"), (" depends on evaluation order", _ORDER_FREE)),
    **dict.fromkeys(("list", "array_agg", "string_agg"), (" keeps every event", "write newest(list(x) OVER w, k)")),
    "mode": (" leaves ties to chance", "write top_k(histogram(x) OVER w, 1)[1], where the smaller value wins"),
    "approx_count_distinct": (
        " is a sketch: its error depends on how it is merged, so two engines differ",
        "use count(DISTINCT x), which is exact in both",
    ),
    **dict.fromkeys(
        ("approx_quantile", "approx_top_k", "reservoir_quantile"),
        (" is a sketch: its error depends on the order of events, so two engines differ", _EXACT_BANDS),
    ),
    **dict.fromkeys(
        ("median", "quantile", "quantile_cont", "quantile_disc", "percentile_cont", "percentile_disc", "mad"),
        (
            " needs every value of the window in order",
            f"{_EXACT_BANDS}; for at most 1,000 events write list_aggregate(newest(list(x) OVER w, 1000), 'median')",
        ),
    ),
    "product": (
        " multiplies doubles, whose last digits depend on the order of the events",
        "for at most 1,000 events write list_product(newest(list(x) OVER w, 1000)), where the order is decided",
    ),
    **dict.fromkeys(("fsum", "kahan_sum", "sumkahan", "favg"), (" adds doubles", "use sum or avg over DECIMAL(p,s)")),
    **dict.fromkeys(("count_if", "countif"), (" is a filter", "write count(*) FILTER (WHERE condition)")),
    "bool_or": (" is the greatest of booleans", "write max(x)"),
    "bool_and": (" is the least of booleans", "write min(x)"),
    "lead": (" looks at later rows, and no event follows a request", "write last(x) for the latest value"),
    **dict.fromkeys(
        ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile"),
        (
            " places the row itself, and a request is no event",
            "write count(*) FILTER (WHERE condition), which counts the events before it in an order",
        ),
    ),
    **dict.fromkeys(("geomean", "geometric_mean"), (" adds doubles", _EXACT_BANDS)),
    **dict.fromkeys(("weighted_avg", "wavg"), (" is two sums", "write sum(x * w) OVER o / nullif(sum(w) OVER o, 0)")),
}
_KNOWN = (
    "use count, sum, avg, min, max, stddev, variance, skewness, kurtosis, entropy, first, last, nth_value, lag, "
    "arg_min, arg_max, count(DISTINCT …), histogram, top_k, sum_by, avg_by, least_by, greatest_by, newest, "
    "histogram_each, sum_each, avg_each, first_distinct or last_distinct"
)


class _Written(NamedTuple):
    """The call taken apart: where its argument and what orders it are; None for ``count(*)``."""

    function: AggregateFunction
    argument: Span | None
    by: Span | None
    k: int | None
    nulls: bool


class AggregateReader:
    """Reads the calls of one view; collects their inputs and windows."""

    def __init__(
        self,
        source: Source,
        stream: Stream,
        binder: Binder,
        resolve: Callable[[exp.Column], str],
        text: Callable[[exp.Expr, Span], str],
    ) -> None:
        self.source, self.stream, self.binder = source, stream, binder
        self._resolve, self._text = resolve, text
        self.windows: list[Window] = []
        self.inputs: list[Input] = []

    def read(self, call: Call, output: str) -> Aggregate:
        """The aggregate that ``call`` is; its column is called ``output``.

        Raises:
            DefinitionError: a function, argument, option or window outside the language.
        """
        source, spans = self.source, self.source.aggregate(call.aggregate)
        node = cast("exp.Window", source.parse(call.aggregate))
        exp.Alias(this=node, alias=exp.to_identifier(output))  # windows are named after what reads them
        written = self._written(call, spans.function, spans.argument)
        filter_ = None
        if spans.filter is not None:
            if spans.function in ("first", "last", "first_value", "last_value", "nth_value", "lag"):
                raise source.refuse(
                    call.line, f"{spans.function} with FILTER, which DuckDB does not have", _FILTERED[spans.function]
                )
            filter_ = self._expression(call, spans.filter, written.function)
            self._bind(call, f"SELECT 1 FROM {quoted(self.stream.name)} WHERE {filter_}")
        argument, type_ = self._argument(call, written.argument, written.function)
        by, by_type = None, None
        if written.by is not None:
            by_text, by_type = self._argument(call, written.by, written.function)
            by = self._input(by_text, filter_, by_type)
        why = refusal(written.function, type_, by_type)
        if why is not None:
            raise self._refused(call, written, type_, by_type, why)
        window = self._window(self._read_window(spans.function, call, node))
        if written.function == "histogram_each" and self.windows[window].rows is not None:
            raise source.refuse(
                call.line,
                "histogram_each over a ROWS frame, which counts events",
                remedy_of_list("histogram", source.cut(spans.argument)),
            )
        return Aggregate(
            output=output,
            function=written.function,
            input=self._input(argument, filter_, type_),
            window=window,
            type=result_type(written.function, type_, by_type, written.k),
            by=by,
            k=written.k,
            nulls=written.nulls,
        )

    def _written(self, call: Call, name: str, span: Span) -> _Written:
        source = self.source
        words = source.words(span)
        if call.macro is not None:
            return self._macro(call, call.macro, name, span)
        function = _NAMES.get(name)
        if function is None:
            why, remedy = _REFUSED.get(name, ("", _KNOWN))
            raise source.refuse(call.line, f"{name} over a window{why}", remedy)
        if words[:1] == ["DISTINCT"]:
            if function != "count":
                raise source.refuse(
                    call.line, f"{name}(DISTINCT …)", "write count(DISTINCT x), or last_distinct(list(x) OVER w, k)"
                )
            return _Written("count_distinct", source.trimmed(span, 1, 0), None, None, False)
        respects = function in ("first", "last", "nth_oldest", "nth_newest")
        if words[-2:] in (["IGNORE", "NULLS"], ["RESPECT", "NULLS"]) and respects:
            respects = words[-2] == "RESPECT"
            span = source.trimmed(span, 0, 2)
        parts = source.arguments(span)
        if function in ("nth_oldest", "nth_newest"):
            return self._nth(call, name, parts, respects)
        if "ORDER BY" in words or "ORDER" in words or any("NULLS" in source.words(part) for part in parts):
            raise source.refuse(call.line, f"{name} with an order of its own", f"write {name}(x): its order is decided")
        if function in ("arg_min", "arg_max"):
            return self._chosen(call, name, function, parts)
        if len(parts) > 1:
            raise source.refuse(call.line, f"{name} with more than one argument", self._listed(name, parts))
        if not parts or words == ["*"]:
            if function != "count":
                raise source.refuse(call.line, f"{name} without an argument", f"write {name}(x)")
            return _Written("count", None, None, None, False)
        return _Written(function, span, None, None, respects)

    def _listed(self, name: str, parts: list[Span]) -> str:
        """What to write for ``max(x, 3)`` and its like."""
        value, number = (self.source.cut(part) for part in parts[:2])
        if name in ("min", "max"):
            return f"the {number} {'least' if name == 'min' else 'greatest'} are arg_{name}({value}, {value}, {number})"
        if name in ("first", "last", "first_value", "last_value"):
            return f"the {number} are arg_{'min' if 'first' in name else 'max'}({value}, event_time, {number})"
        return f"write {name}({value})"

    def _chosen(self, call: Call, name: str, function: AggregateFunction, parts: list[Span]) -> _Written:
        if not 2 <= len(parts) <= 3:
            raise self.source.refuse(
                call.line, f"{name} with {len(parts)} arguments", f"write {name}(x, y) or (x, y, k)"
            )
        k = None if len(parts) == 2 else self._number(call, name, parts[2], newest=self._is_newest(function, parts[1]))
        return _Written(function, parts[0], parts[1], k, False)

    def _is_newest(self, function: AggregateFunction, order: Span) -> bool:
        """Whether the events that ``function`` picks in this order are the newest ones."""
        by = self.source.parse(order)
        return function == "arg_max" and isinstance(by, exp.Column) and self._resolve(by) == self.stream.event_time

    def _nth(self, call: Call, name: str, parts: list[Span], respects: bool) -> _Written:
        """``lag(x, n)``, ``nth_value(x, n)``, or with ``ORDER BY event_time DESC`` after the number."""
        source, time = self.source, self.stream.event_time
        if name == "lag" and len(parts) == 3:
            raise source.refuse(
                call.line,
                "lag with a default",
                f"write CASE WHEN count(*) OVER w < {source.cut(parts[1])} THEN {source.cut(parts[2])} ELSE lag(…) END",
            )
        if len(parts) != 2 and (name, len(parts)) != ("lag", 1):
            raise source.refuse(call.line, f"{name} with {len(parts)} arguments", f"write {name}(x, n)")
        words, newest, listed = source.words(parts[-1]), name == "lag", parts[-1]
        if "ORDER BY" in words:
            newest = words[-1] == "DESC"
            by = source.parse(source.trimmed(parts[-1], 2, int(words[-1] in ("DESC", "ASC")))) if words[1:] else None
            if name == "lag" or words[1] != "ORDER BY" or not isinstance(by, exp.Column) or self._resolve(by) != time:
                raise source.refuse(
                    call.line,
                    f"{name} with an order of its own",
                    f"write nth_value(x, n ORDER BY {time} DESC) for the n-th last value, nth_value(x, n) for the n-th",
                )
            listed = source.trimmed(parts[-1], 0, len(words) - 1)
        k = 1 if len(parts) == 1 else self._number(call, name, listed)
        return _Written("nth_newest" if newest else "nth_oldest", parts[0], None, k, respects)

    def _read_window(self, name: str, call: Call, node: exp.Window) -> Window:
        window = read_window(self.source, node, self.stream, self.binder, self._resolve, frameless=name == "lag")
        if name == "lag" and window != Window(window.name, 0, None, unbounded=True):
            raise self.source.refuse(
                call.line,
                "lag over a frame, which DuckDB does not look at",
                f"write nth_value(x, n ORDER BY {self.stream.event_time} DESC) OVER w for the n-th last value of the "
                "frame, or drop the frame",
            )
        return window

    def _macro(self, call: Call, macro: str, inner: str, span: Span) -> _Written:
        source, wanted = self.source, MACROS_OF_AGGREGATES[macro]
        if inner != wanted:
            raise source.refuse(call.line, f"{macro} of {inner}", f"write {macro}({wanted}(…) OVER w …)")
        for by_key in BY_KEY:
            if macro == by_key:
                pair = self._pair(call, macro, span)
                return _Written(by_key, pair[0], pair[1], None, False)
        if macro == "histogram_each":
            return _Written("histogram_each", span, None, None, False)
        if call.rest is None:
            raise source.refuse(call.line, f"{macro} without a number", f"write {macro}({wanted}(x) OVER w, 3)")
        k = self._number(call, macro, call.rest, newest=macro == "newest")
        if len(source.arguments(span)) != 1 or {"ORDER BY", "ORDER", "DISTINCT"} & set(source.words(span)):
            raise source.refuse(call.line, f"{macro} of more than a value", f"write {macro}({wanted}(x) OVER w, {k})")
        functions: Mapping[str, AggregateFunction] = {
            "first_distinct": "first_distinct",
            "last_distinct": "last_distinct",
            "newest": "newest",
            "top_k": "top_k",
        }
        return _Written(functions[macro], span, None, k, macro == "newest")

    def _pair(self, call: Call, macro: str, span: Span) -> tuple[Span, Span]:
        """The expressions of ``{'k': …, 'v': …}``."""
        source = self.source
        words = source.words(span)
        if words[:1] == ["{"] and words[-1:] == ["}"]:
            parts = source.arguments(source.trimmed(span, 1, 1))
            heads = [[words[0].strip("'\"").upper(), *words[1:2]] for words in map(source.words, parts)]
            if heads == [["K", ":"], ["V", ":"]] and all(len(source.words(part)) > 2 for part in parts):
                return source.trimmed(parts[0], 2, 0), source.trimmed(parts[1], 2, 0)
        raise source.refuse(
            call.line, f"{macro} of {source.cut(span)}", f"write {macro}(list({{'k': key, 'v': value}}) OVER w)"
        )

    def _number(self, call: Call, name: str, span: Span, *, newest: bool = False) -> int:
        text, most = self.source.cut(span), MAX_SEQUENCE if newest else MAX_LISTED
        if text.isdigit() and 1 <= int(text) <= most:
            return int(text)
        other = "" if newest else f"; of the newest events, arg_max(x, {self.stream.event_time}, k), to {MAX_SEQUENCE}"
        raise self.source.refuse(call.line, f"{name} of {text} values", f"write a number from 1 to {most}{other}")

    def _argument(self, call: Call, span: Span | None, function: str) -> tuple[str | None, pa.DataType]:
        if span is None:
            return None, pa.int64()
        text = self._expression(call, span, function)
        bound = self._bind(call, f"SELECT {text}\n AS argument FROM {quoted(self.stream.name)}")
        return text, bound.field(0).type

    def _expression(self, call: Call, span: Span, function: str) -> str:
        broken = self.source.not_row_by_row(span)
        if broken is not None and broken.kind in ("rows", "columns"):
            raise self.source.refuse(
                call.line,
                f"{broken.name} inside {function} makes several of one",
                "use a value of the event: an element like x[1], or a number of the list like len(x) or list_sum(x)",
            )
        if broken is not None:
            raise self.source.refuse(
                call.line, f"an aggregate or subquery inside {function}", "use the event's own columns"
            )
        return self._text(self.source.parse(span), span)

    def _refused(
        self, call: Call, written: _Written, type_: pa.DataType, by: pa.DataType | None, why: tuple[str, str]
    ) -> DefinitionError:
        source = self.source
        shown = [source.cut(span) for span in (written.argument, written.by) if span is not None]
        types = " and ".join(sql_type(t) for t in (type_, by) if t is not None)
        remedy = why[1]
        if pa.types.is_list(type_) and written.function != "histogram_each":
            remedy = remedy_of_list(written.function, shown[0])
        elif why[0] == " depends on evaluation order":
            node = source.parse(written.by or written.argument or call.aggregate)
            remedy = "make the argument DECIMAL(p,s) or BIGINT"
            if isinstance(node, exp.Column):
                made_in = dict(self.stream.made_in).get(node.name.lower())
                remedy = f"declare {node.name} DECIMAL(12,2) in {self.stream.schema.file}"
                if made_in is not None:
                    remedy = f"write CAST(… AS DECIMAL(12,2)) AS {node.name} in {made_in}, whose view has it"
                elif self.stream.schema.file == source.file:
                    remedy = f"write CAST({node.name} AS DECIMAL(12,2)) AS {node.name} in every SELECT of the UNION ALL"
        name = written.function if written.function != "count_distinct" else "count DISTINCT "
        return source.refuse(call.line, f"{name}({', '.join(shown)}) over {types}{why[0]}", remedy)

    def _input(self, argument: str | None, filter_: str | None, type_: pa.DataType) -> int:
        wanted = Input(argument, filter_, type_)
        if wanted not in self.inputs:
            self.inputs.append(wanted)
        return self.inputs.index(wanted)

    def _window(self, window: Window) -> int:
        for index, known in enumerate(self.windows):
            if replace(known, name=window.name) == window:
                return index
        self.windows.append(window)
        return len(self.windows) - 1

    def _bind(self, call: Call, sql: str) -> pa.Schema:
        try:
            return self.binder.describe(sql)
        except BindError as error:
            raise self.source.refuse(call.line, str(error), remedy_of(error)) from error
