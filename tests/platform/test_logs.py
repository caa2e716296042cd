"""The log's two forms, its levels, and what must not be in it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from dovetail.platform.logs import Event, Level, TextLines, set_up_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Loggers are the process's: put them back."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    names = ("", "dovetail", "dovetail.platform.transports", "aiokafka.conn", "sqlalchemy.engine")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)


def logged(level: Level = "info", *, as_json: bool = True) -> io.StringIO:
    stream = io.StringIO()
    set_up_logs(level, as_json=as_json, stream=stream)
    return stream


def test_an_event_is_one_json_object_with_its_fields_apart() -> None:
    stream = logged()
    fields = {"version": 3, "share": 0.5, "full": True, "base": None, "partitions": {"clicks": "0-3"}, "path": "a b"}
    logging.getLogger("dovetail.trainer").info(Event("model published", **fields))
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "logger": "dovetail.trainer", "message": "model published",
        "fields": fields,
    }  # fmt: skip


def test_text_has_the_same_on_one_line() -> None:
    stream = logged(as_json=False)
    logging.getLogger("dovetail.trainer").info(Event("done", partitions={"a": "0-3", "b": "1"}, path="a b", none={}))
    assert stream.getvalue().endswith('Z INFO dovetail.trainer: done: partitions=a[0-3],b[1] path="a b" none=none\n')


def test_plain_messages_and_exceptions_are_lines_too() -> None:
    stream = logged()
    logging.getLogger("elsewhere").error("%s failed", "it", exc_info=ValueError("two\nlines"))
    logging.getLogger("dovetail").info("plain")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["fields"]) == ("it failed", "error", {})
    assert "ValueError: two\nlines" in first["exception"]
    assert "exception" not in second


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
@pytest.mark.parametrize("library", ["faust.app", "aiokafka.consumer", "dovetail.platform.transports.faust_app"])
def test_libraries_obey_and_say_no_more_than_warnings(
    level: Level, ours: list[str], theirs: list[str], library: str
) -> None:
    stream = logged(level)
    for name in ("dovetail.app", library):
        for grave in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(grave, "x")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines if line["logger"] == "dovetail.app"] == ours
    assert [line["level"] for line in lines if line["logger"] == library] == theirs


def test_warnings_are_in_the_log_and_setting_up_again_doubles_nothing() -> None:
    logged()
    stream = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("once", stacklevel=1)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines() if "once" in line]
    assert line["logger"] == "py.warnings"


@pytest.mark.parametrize("as_json", [True, False])
def test_no_password_is_in_a_line(as_json: bool) -> None:
    stream = logged(as_json=as_json)
    log = logging.getLogger("dovetail")
    log.info(Event("starting", broker="kafka://me:s3cret@host:9092", store="redis://:s3cret@host/0"))
    log.warning("cannot connect to postgresql://me:s3cret@host/db")
    log.warning("cannot connect to %s", "redis://host/0?ssl=true&password=s3cret&db=1")
    log.error("lost", exc_info=ConnectionError("amqp://u:s3cret@h refused"))
    assert "s3cret" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 5
    assert "kafka://me:***@host:9092" in stream.getvalue()


def test_what_a_library_sends_is_in_no_line_at_any_level() -> None:
    """aiokafka writes out each request at ``debug``, a log-in with its password among them."""
    stream = logged("debug")
    request = "SaslAuthenticateRequest_v0(sasl_auth_bytes=b'\\x00me\\x00s3cret')"
    logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "host", 9092, 1, request)
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT :password"), {"password": "s3cret"})
    assert "s3cret" not in stream.getvalue()


def test_a_formatter_of_somebody_else_writes_an_event_as_text() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, Event("done", rows=2), (), None)
    assert logging.Formatter("%(message)s").format(record) == "done: rows=2"
    assert TextLines().format(record).endswith("Z INFO x: done: rows=2")
