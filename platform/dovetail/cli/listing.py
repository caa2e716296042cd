"""Tables of the command line, readable at any width: nothing of a cell is ever left out.

A pipe or a file gets one line per row, as wide as the row is. A terminal gets a table where all of it fits, cells of
prose wrapped at words if need be; where even that does not fit, each row becomes a block of ``column  value`` lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "Listing"]

#: Blanks between two columns: the usual ones, and those of a table that would otherwise not fit.
_GAPS = (2, 1)


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title and what its cells are.

    ``number`` and ``name`` are never broken; ``prose`` may be wrapped down to ``least`` cells of width.
    """

    title: str
    kind: Literal["name", "number", "prose"] = "name"
    least: int = 24


@dataclass(slots=True)
class Listing:
    """Rows under columns, with a title above and perhaps a note below. A cell is plain text, of one or more lines."""

    title: str
    columns: Sequence[Column]
    note: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row; ``cells`` in the order of the columns."""
        self.rows.append(cells)

    def print(self, console: Console) -> None:
        """Print to ``console``, in the form that suits it."""
        if not console.is_terminal:
            self._print_lines(console)
            return
        for gap in _GAPS:
            widths = self._widths(console.width, gap)
            if widths is not None:
                self._print_table(console, widths, gap)
                break
        else:
            self._print_blocks(console)

    def _natural(self) -> list[int]:
        """The width of each column when nothing is wrapped."""
        lines = [[column.title] for column in self.columns]
        for row in self.rows:
            for cells, cell in zip(lines, row, strict=True):
                cells.extend(cell.split("\n"))
        return [max(map(cell_len, cells)) for cells in lines]

    def _widths(self, room: int, gap: int) -> list[int] | None:
        """The width of each column in ``room`` cells; None when it is too narrow."""
        natural = self._natural()
        least = [
            min(width, column.least) if column.kind == "prose" else width
            for width, column in zip(natural, self.columns, strict=True)
        ]
        spare = room - gap * (len(natural) - 1) - sum(least)
        if spare < 0:
            return None
        widths = []
        for wanted, given in zip(natural, least, strict=True):
            widths.append(given + min(spare, wanted - given))
            spare -= widths[-1] - given
        return widths

    def _print_lines(self, console: Console) -> None:
        titles = [column.title for column in self.columns]
        rows = [titles, *([cell.replace("\n", ", ") for cell in row] for row in self.rows)]
        widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
        console.print(self.title)
        for row in rows:
            cells = []
            for cell, width, column in zip(row, widths, self.columns, strict=True):
                blanks = " " * (width - cell_len(cell))
                cells.append(blanks + cell if column.kind == "number" else cell + blanks)
            console.print("  ".join(cells).rstrip())
        self._print_note(console)

    def _print_table(self, console: Console, widths: Sequence[int], gap: int) -> None:
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
        for column, width in zip(self.columns, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
            table.add_column(Text(column.title), justify=justify, width=width, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(self.title, style="bold")
        console.print(table)
        self._print_note(console)

    def _print_blocks(self, console: Console) -> None:
        titles = max(cell_len(column.title) for column in self.columns[1:])
        console.print(self.title, style="bold")
        for row in self.rows:
            console.print(row[0], style="bold")
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(width=titles + 2)
            grid.add_column(overflow="fold")
            for column, cell in zip(self.columns[1:], row[1:], strict=True):
                grid.add_row(Text(f"  {column.title}"), Text(cell))
            console.print(grid)
        self._print_note(console)

    def _print_note(self, console: Console) -> None:
        if self.note:
            console.print(self.note)
