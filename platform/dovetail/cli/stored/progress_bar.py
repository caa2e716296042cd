"""Progress of batch commands: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["DayProgress"]


class DayProgress:
    """Days (or rows) done of all, and what is being done."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None)
        self._tenth = 0

    def __enter__(self) -> DayProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, what: str, done: int, of: int) -> None:
        """Work within a span of days."""
        self._bar.update(self._task, description=f"{what} {done}/{of}" if of else f"{what} {done}")

    def day(self, day: str, done: int, of: int) -> None:
        """A day is done."""
        self._bar.update(self._task, completed=done, total=of, description=day)
        self._line(f"{day}  {done} of {of} days")

    def say(self, what: str) -> None:
        """Show in words what is being done."""
        self._bar.update(self._task, description=what)

    def rows(self, done: int, of: int) -> None:
        """So many rows are done; a line every tenth of the way."""
        self._bar.update(self._task, completed=done, total=of)
        tenth = done * 10 // max(of, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self._line(f"{done:,} of {of:,} rows")

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text)
