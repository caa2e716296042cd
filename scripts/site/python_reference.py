"""The page of ``dovetail.sdk``, made from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dovetail import sdk

__all__ = ["python_page"]

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


def python_page() -> str:
    """The page, as Markdown."""
    names = [name for name in sdk.__all__ if not name.startswith("__")]
    things = {name: getattr(sdk, name) for name in names}
    errors = [name for name, thing in things.items() if inspect.isclass(thing) and issubclass(thing, Exception)]
    parts = [
        "# Python",
        "",
        (
            "Made from the docstrings of `dovetail.sdk`, the names that a program needs; how they are used is on the "
            "page [From Python](../docs/python.md)."
        ),
        "",
    ]
    for name in names:
        if name not in errors:
            parts += _thing(name, things[name])
    parts += ["## Errors", ""]
    for name in errors:
        parts += [f"### {name}", "", f"A `{things[name].__mro__[1].__name__}`. {_text(things[name])}", ""]
    return "\n".join(parts)


def _thing(name: str, thing: Any) -> Iterator[str]:
    yield from (f"## {name}", "", "```python", f"{name}{_signature(thing)}", "```", "", _text(thing), "")
    if not inspect.isclass(thing):
        return
    made = inspect.getdoc(thing.__init__)
    if made and "__init__" in vars(thing) and thing.__init__.__doc__ != object.__init__.__doc__:
        yield from (_prose(made), "")
    for below, member in inspect.getmembers(thing):
        home = next((each for each in thing.__mro__ if below in vars(each)), object)
        if below.startswith("_") or not home.__module__.startswith("dovetail."):
            continue
        if callable(member):
            yield from (
                f"### {name}.{below}",
                "",
                "```python",
                f"{below}{_signature(member)}",
                "```",
                "",
                _text(member),
                "",
            )
        elif isinstance(member, property) and inspect.getdoc(member):
            yield from (f"### {name}.{below}", "", _text(member), "")


def _signature(thing: Any) -> str:
    if inspect.isclass(thing) and issubclass(thing, BaseModel):
        return "(...)"
    text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(inspect.signature(thing)).replace("'", ""))
    return re.sub(r"\(self(?:, )?", "(", text).removesuffix(" -> None")


def _text(thing: Any) -> str:
    return _prose(inspect.getdoc(thing) or "")


def _prose(text: str) -> str:
    """A docstring as Markdown: code is between single backticks, what is raised is a list."""
    text = _ROLE.sub(lambda found: f"`{found[1]}`", text).replace("``", "`")
    lines, raised = [], False
    for line in text.splitlines():
        if line.strip() in ("Raises:", "Args:", "Returns:", "Yields:"):
            lines += ["", f"**{line.strip(': ')}**", ""]
            raised = True
        elif raised and re.match(r"    \w+:", line):
            error, _, why = line.strip().partition(":")
            lines.append(f"- `{error}`: {why.strip()}")
        elif raised and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            raised = raised and not line.strip()
            lines.append(line)
    return re.sub(r"^::$", "", re.sub(r"(\S)::$", r"\1:", "\n".join(lines), flags=re.MULTILINE), flags=re.MULTILINE)
