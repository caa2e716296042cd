"""``dovetail send``: the rows of a file to a topic."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dovetail.app.doors.door import door_of
from dovetail.app.doors.files import FileFormat, format_of, read_file
from dovetail.app.doors.sending import Checked, check_rows, publish, watermarks
from dovetail.cli.output import errors, print_json, terminal
from dovetail.cli.times import time_us_of
from dovetail.features import load
from dovetail.platform.clock import SystemClock
from dovetail.platform.errors import ConfigError

__all__ = ["run"]

_SHOWN = 20


def run(
    project: Path,
    topic: str,
    file: str | None,
    form: str | None,
    watermark: str | None,
    idempotency_key: str | None,
    *,
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Send; 1 when rows are bad and none was sent, 0 otherwise."""
    loaded = load(project)
    door = door_of(loaded, topic, "TOPIC")
    says = None if watermark is None else time_us_of("--watermark", watermark)
    checked = Checked((), ())
    if file is not None:
        chosen = _format(file, form)
        with _readable(file, chosen) as source:
            checked = check_rows(
                door, read_file(source, chosen, door.intake.schema, "FILE"), SystemClock(), idempotency_key
            )
    sent = not checked.bad or skip_bad
    messages = [*checked.messages, *(watermarks(door, says) if says is not None else ())] if sent else []
    publish(loaded, messages)
    rows = len(checked.messages) if sent else 0
    if as_json:
        bad = [{"row": number, "reason": reason} for number, reason in checked.bad]
        print_json({"topic": door.topic, "sent": rows, "bad": bad, "watermark": watermark if sent else None})
    else:
        _say(checked, rows, door.topic, watermark if sent else None)
    return 0 if sent else 1


def _say(checked: Checked, rows: int, topic: str, watermark: str | None) -> None:
    for number, reason in checked.bad[:_SHOWN]:
        errors.print(f"row {number}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(checked.bad) > _SHOWN:
        errors.print(f"and {len(checked.bad) - _SHOWN:,} more; --json lists them all", highlight=False)
    console = terminal()
    if checked.bad and not rows and checked.messages:
        console.print(f"nothing sent to {topic}: {len(checked.bad):,} rows are bad; correct them, or give --skip-bad")
        return
    said = f"{rows:,} rows sent to {topic}"
    if checked.bad:
        said += f", {len(checked.bad):,} bad ones not"
    console.print(said if watermark is None else f"{said}; announced there: nothing older than {watermark} follows")


def _format(file: str, form: str | None) -> FileFormat:
    known = [each.value for each in FileFormat if each is not FileFormat.query]
    if form is not None:
        if form not in known:
            raise ConfigError(f"--format {form!r}: choose from {', '.join(known)}")
        return FileFormat(form)
    found = FileFormat.jsonl if file == "-" else format_of(file, "FILE")
    if found is FileFormat.query:
        raise ConfigError(f"FILE {file!r}: give the path of a file; `dovetail replay` takes queries")
    return found


@contextmanager
def _readable(file: str, form: FileFormat) -> Iterator[str]:
    """The path of ``file``; of standard input, that of a copy which lasts as long as the block."""
    if file != "-":
        yield file
        return
    with tempfile.NamedTemporaryFile(prefix="dovetail-send-", suffix=f".{form.value}") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield copy.name
