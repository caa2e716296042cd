"""``RANGE BETWEEN … PRECEDING AND …``, read as a :class:`~dovetail.features.plan.definitions.Window`."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError
from dovetail.features.language.source import Source
from dovetail.features.plan.aggregates import MAX_SEQUENCE
from dovetail.features.plan.definitions import Stream, Window

__all__ = ["read_window"]

_FRAME = "write RANGE BETWEEN INTERVAL … PRECEDING AND CURRENT ROW, or AND INTERVAL … PRECEDING"
_NOW = "RANGE BETWEEN INTERVAL 0 SECOND PRECEDING AND CURRENT ROW"
#: Longer durations could overflow int64 microseconds when added to a time; a probe may stand a microsecond earlier.
_LONGEST_US = (1 << 60) - 1


def read_window(
    source: Source,
    over: exp.Window,
    stream: Stream,
    binder: Binder,
    resolve: Callable[[exp.Column], str],
    *,
    frameless: bool = False,
) -> Window:
    """The window that ``OVER`` means: named or inline. ``frameless`` says that none is a frame of all that came before.

    Raises:
        DefinitionError: ordered by something else than the stream's event time, or a frame outside the language.
    """
    window, name = _definition(source, over)
    _check_order(source, window, stream, resolve)
    spec = window.args.get("spec")
    if spec is None and frameless:
        return Window(name, 0, None, unbounded=True)
    if spec is None:
        raise source.refuse(
            window,
            "a window without frame, which is unbounded",
            f"write RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW if that is meant; else {_FRAME}",
        )
    kind = str(spec.args.get("kind") or "").upper()
    if kind not in ("RANGE", "ROWS"):
        raise source.refuse(
            window, f"a {kind} frame counts groups of ties", f"{_FRAME}, or ROWS BETWEEN n PRECEDING for n events"
        )
    start, end, last = spec.args.get("start"), spec.args.get("end"), spec.args.get("end_side")
    if spec.args.get("start_side") != "PRECEDING" or not (end in (None, "CURRENT ROW") or last == "PRECEDING"):
        raise source.refuse(window, "a frame that is not … PRECEDING AND … PRECEDING", _before(spec, kind))
    ends = end if last == "PRECEDING" else None
    if kind == "ROWS":
        return _rows(source, window, name, start, ends)
    if isinstance(ends, exp.Anonymous):
        raise source.refuse(
            window,
            f"a frame that ends {ends.sql(dialect='duckdb')} PRECEDING",
            "write the end as a constant INTERVAL: it is exact, also where the frame begins with hop",
        )
    end_us = 0 if ends is None else _interval(source, window, ends, binder)
    if _leaves_out_ties(source, window):
        end_us = max(end_us, 1)
    if start == "UNBOUNDED":
        return Window(name, 0, None, unbounded=True, end_us=end_us)
    if isinstance(start, exp.Anonymous) and start.name.lower() == "hop":
        size, step = _hop(source, window, start, stream, binder, resolve)
    else:
        size, step = _interval(source, window, start, binder), None
    if size < end_us:
        raise source.refuse(
            window,
            f"a frame that ends {end_us} us before the request, and begins {size} us before it",
            "write the longer interval first: BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 1 DAY PRECEDING",
        )
    return Window(name, size, step, end_us=end_us)


def _leaves_out_ties(source: Source, window: exp.Window) -> bool:
    """Whether EXCLUDE leaves out the peers of the current row, which at a request are the events at its time."""
    excluded = str(window.args["spec"].args.get("exclude") or "NO OTHERS").upper()
    if excluded == "CURRENT ROW":
        raise source.refuse(window, "EXCLUDE in a frame", "drop EXCLUDE: the request itself counts for nothing")
    return excluded != "NO OTHERS"


def _before(spec: exp.Expr, kind: str) -> str:
    """What to write for a frame that goes beyond the request, or does not begin before it."""
    start, end = spec.args.get("start"), spec.args.get("end")
    first = start.sql(dialect="duckdb") if isinstance(start, exp.Expr) else str(start)
    if spec.args.get("end_side") == "FOLLOWING" or end == "UNBOUNDED":
        return f"no event follows a request: write {kind} BETWEEN {first} PRECEDING AND CURRENT ROW"
    return f"events at the request's time are {_NOW}" if first == "CURRENT ROW" else _FRAME


def _rows(source: Source, window: exp.Window, name: str, start: exp.Expr | str, end: exp.Expr | str | None) -> Window:
    """The window of a ROWS frame. The current row is the probe, so ``m PRECEDING`` is the m-th last event."""
    if _leaves_out_ties(source, window):
        raise source.refuse(
            window,
            "EXCLUDE in a ROWS frame, which counts the rows that it leaves out",
            "drop EXCLUDE, and declare [features] strictly_before = true for the last rows before the request's time; "
            "or write a RANGE frame",
        )
    if start == "UNBOUNDED":
        raise source.refuse(
            window,
            "ROWS UNBOUNDED PRECEDING",
            "write RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW: at a request it is the same events",
        )
    rows, last = _number(source, window, start), 1 if end is None else _number(source, window, end)
    if last > rows:
        raise source.refuse(window, f"ROWS {rows} PRECEDING AND {last} PRECEDING", "write the greater number first")
    return Window(name, 0, None, rows=rows, skip=last - 1)


def _number(source: Source, window: exp.Window, bound: exp.Expr | str) -> int:
    text = bound if isinstance(bound, str) else bound.sql(dialect="duckdb")
    if not text.isdigit() or not 1 <= int(text) <= MAX_SEQUENCE:
        raise source.refuse(
            window,
            f"ROWS {text} PRECEDING",
            f"write a number of rows from 1 to {MAX_SEQUENCE}: each is kept, and read by every request; for more, "
            "write a RANGE frame, UNBOUNDED or by time",
        )
    return int(text)


def _definition(source: Source, over: exp.Window) -> tuple[exp.Window, str]:
    reference = over.args.get("alias")
    inline = over.args.get("partition_by") or over.args.get("order") or over.args.get("spec")
    if reference is None:
        return over, over.parent.alias if isinstance(over.parent, exp.Alias) else "inline"
    if inline:
        raise source.refuse(over, f"OVER ({reference.name} …) extends a named window", "name every window in full")
    named = {w.name.lower(): w for w in source.select.args.get("windows") or []}
    return named[reference.name.lower()], reference.name


def _check_order(source: Source, window: exp.Window, stream: Stream, resolve: Callable[[exp.Column], str]) -> None:
    order = window.args.get("order")
    keys = order.expressions if order is not None else []
    plain = len(keys) == 1 and isinstance(keys[0].this, exp.Column) and not keys[0].args.get("desc")
    if not plain or resolve(keys[0].this) != stream.event_time:
        found = order.sql(dialect="duckdb").strip() if order is not None else "no ORDER BY"
        raise source.refuse(
            window,
            f"a window of stream {stream.name} has {found}",
            f"ORDER BY {stream.event_time}, the stream's event time",
        )


def _hop(
    source: Source,
    window: exp.Window,
    call: exp.Anonymous,
    stream: Stream,
    binder: Binder,
    resolve: Callable[[exp.Column], str],
) -> tuple[int, int]:
    """Size and step."""
    arguments = call.expressions
    first = arguments[0] if arguments else None
    if len(arguments) != 3 or not isinstance(first, exp.Column) or resolve(first) != stream.event_time:
        raise source.refuse(
            window, "hop with other arguments", f"write hop({stream.event_time}, INTERVAL size, INTERVAL step)"
        )
    size, step = (_interval(source, window, argument, binder) for argument in arguments[1:])
    if step == 0:
        raise source.refuse(window, "hop with a step of zero", "write a step of at least a microsecond")
    return size, step


def _interval(source: Source, window: exp.Window, node: exp.Expr, binder: Binder) -> int:
    text = node.sql(dialect="duckdb") if isinstance(node, exp.Expr) else str(node)
    if not isinstance(node, exp.Expr) or not node.find(exp.Interval) or node.find(exp.Column, exp.Query):
        raise source.refuse(window, f"frame bound {text}", "write a constant INTERVAL or hop(…)")
    try:
        months, us = binder.interval_us(text)
    except BindError as error:
        raise source.refuse(window, f"{text}: {error}", "write an interval like INTERVAL 7 DAY") from error
    if months:
        raise source.refuse(window, f"{text} has no fixed length", "write it in days or hours")
    if not 0 <= us <= _LONGEST_US:
        raise source.refuse(window, f"{text} is {us} us", f"write an interval between 0 and {_LONGEST_US} us")
    return us
