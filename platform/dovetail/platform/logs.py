"""The log of a worker: events with fields, as text for people or as one JSON object a line for programs.

Modules log with the standard library's loggers, named after themselves. A line that says what a worker does is an
:class:`Event`: any handler, also Faust's, writes it as text; :class:`JsonLines` keeps its fields apart.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from dovetail.platform.masking import masked

__all__ = ["Event", "JsonLines", "Level", "TextLines", "logs_to", "set_up_logs"]

Level = Literal["debug", "info", "warning", "error"]

#: Faust logs the life of its services under the modules of their classes, which for the drivers are ours.
_SERVICES = "dovetail.platform.transports"
#: Loggers that would write out what they send, passwords and rows among it, and the least level each is held to.
_INDISCREET = {"aiokafka.conn": logging.INFO, "sqlalchemy.engine": logging.WARNING}


class Event:
    """A message with fields, for a logger: ``log.info(Event("model published", version=3))``.

    As text it is ``model published: version=3``.
    """

    __slots__ = ("fields", "what")

    def __init__(self, what: str, /, **fields: object) -> None:
        self.what = what
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.what}: {' '.join(f'{name}={_text(value)}' for name, value in self.fields.items())}"


class TextLines(logging.Formatter):
    """``TIME LEVEL LOGGER: MESSAGE``, the time in UTC to the millisecond; a traceback on further lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return _time(record)

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, ``fields``, and ``exception`` if any.

    ``fields`` are those of an :class:`Event`, and empty for other messages.
    """

    def format(self, record: logging.LogRecord) -> str:
        event = record.msg if isinstance(record.msg, Event) else None
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(event.what if event is not None else record.getMessage()),
            "fields": {name: _plain(value) for name, value in event.fields.items()} if event is not None else {},
        }
        if record.exc_info:
            line["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(level: Level, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Send every logger of the process to ``stream``, standard output if left out, in one form.

    Dovetail's loggers say what is at least as grave as ``level``. Those of libraries (Faust, aiokafka, …) say no less
    than warnings, unless ``level`` is ``debug``: then they say all but the contents of requests and statements.
    Handlers that were there are removed.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stdout)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("dovetail").setLevel(number)
    theirs = max(number, logging.WARNING) if level != "debug" else number
    root.setLevel(theirs)
    logging.getLogger(_SERVICES).setLevel(theirs)
    for name, least in _INDISCREET.items():
        logging.getLogger(name).setLevel(max(theirs, least))
    logging.captureWarnings(True)


@contextmanager
def logs_to(stream: TextIO, level: Level, *, as_json: bool) -> Iterator[None]:
    """Send what Dovetail's loggers say to ``stream``, too, as long as the block lasts: for a command that ends.

    Lines are as grave as ``level`` at least.
    """
    handler, logger = logging.StreamHandler(stream), logging.getLogger("dovetail")
    handler.setFormatter(JsonLines() if as_json else TextLines())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.getLevelNamesMapping()[level.upper()])
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    """``value`` as JSON has it: numbers, truth values and flat mappings as they are, all else as text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return masked(str(value))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}[{_text(each)}]" for key, each in value.items()) or "none"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[\s=\"]", text) or not text else text
