"""Notebooks in the percent format: Python files whose cells begin with ``# %%``, and their pages on the site."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["cells", "notebook_page"]

_CELL = re.compile(r"^# %%( \[markdown\])?$")


def cells(text: str) -> Iterator[tuple[str, str]]:
    """The kind, ``markdown`` or ``python``, and the text of each cell."""
    kind = ""
    lines: list[str] = []
    for line in text.splitlines():
        if found := _CELL.match(line):
            if kind:
                yield kind, _whole(kind, lines)
            kind, lines = "markdown" if found[1] else "python", []
        else:
            lines.append(line)
    if kind:
        yield kind, _whole(kind, lines)


def notebook_page(name: str, text: str) -> str:
    """The notebook ``docs/notebooks/NAME`` as Markdown, with a word about how to run it behind its title."""
    said = f"\n\n*This page is `docs/notebooks/{name}`, run by `make notebooks`; Jupyter opens it by jupytext.*\n"
    parts = [body if kind == "markdown" else f"```python\n{body}\n```" for kind, body in cells(text)]
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title + said + rest, *parts[1:]]) + "\n"


def _whole(kind: str, lines: list[str]) -> str:
    if kind == "markdown":
        lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
    return "\n".join(lines).strip()
