"""Templates, and how values are written in them. Everything that is shown is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from dovetail.platform.clock import moment_of
from dovetail.platform.masking import masked

__all__ = ["page"]

_LONGEST = 400


def page(template: str, shown: Mapping[str, Any]) -> str:
    """The HTML of ``template`` with what is ``shown``."""
    return _environment().get_template(template).render(**shown)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dovetail.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, write in (("count", _count), ("moment", _moment), ("rate", _rate), ("value", _value), ("time", _time)):
        environment.filters[name] = write
    environment.filters |= {"signed": _signed, "masked": masked}
    environment.globals["to"] = _address
    return environment


def _address(path: str, **asked: Any) -> str:
    """A link within the console; what is None is left out."""
    query = urlencode({name: str(value) for name, value in asked.items() if value is not None})
    return f"{path}?{query}" if query else path


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:,}"


def _value(value: Any) -> str:
    """A value as a person reads it; None is NULL, and long ones are cut."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(_value(each) for each in value[:50])}{', …' if len(value) > 50 else ''}]")
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _time(moment: datetime | date | None) -> str:
    if moment is None:
        return "-"
    if not isinstance(moment, datetime):
        return str(moment)
    return moment.isoformat(sep=" ", timespec="milliseconds" if moment.microsecond else "seconds")


def _moment(us: int | None) -> str:
    """Microseconds since 1970 as a time."""
    return _time(None if us is None else moment_of(us))


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _signed(number: float) -> str:
    return f"{number:+.4f}"
