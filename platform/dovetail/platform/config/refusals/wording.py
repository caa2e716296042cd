"""Says what is wrong in ``dovetail.toml`` to who writes it: ``file:line: where: what; what to do``."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dovetail.platform.config.durations import render_duration
from dovetail.platform.config.refusals.written import KINDS, written

__all__ = ["explained", "line_of_key"]

#: Options that say where a secret is; somebody may write the secret itself there.
_SECRET = re.compile(r"password|secret|token|credential|webhook|url", re.IGNORECASE)
#: The key that a check of a whole section names first, and one that it names on the way.
_SAID_FIRST = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(: )?")
_SAID = re.compile(r"\[(\w+(?:\.\w+)*)\](?: (\w+))?")
#: How much of a value is shown.
_SHOWN = 80


def explained(root: type[BaseModel], file: Path, text: str, problem: Any) -> str:
    """One problem that pydantic found in the sections of ``root``, read from ``file`` that holds ``text``.

    The line is that of the key, of its section where the key is missing, and 1 where neither is in the file. Values of
    options that may hold a secret are not shown.
    """
    location = [_printable(str(part)) for part in problem["loc"] if part != "[key]"]
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        if (shared := _shared(root, location)) is not None:
            return f"{_at(file, text, location)}: {shared}"
        return f"{_at(file, text, location)}: unknown key {location[-1]!r}; {_known(root, location)}"
    if problem["type"] == "missing":
        return f"{_at(file, text, location)}: required, but missing; {_addition(location)}"
    if problem["type"] in ("model_type", "dict_type") and isinstance(given, list) and given:
        return f"{_at(file, text, location)}: it is a list, and a section is wanted; write [{'.'.join(location)}]"
    if problem["type"] != "value_error":
        what, remedy = _in_words(problem, _shown(location, given), given)
        return f"{_at(file, text, location)}: {what}; {remedy}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(given, Mapping | BaseModel):
        where, message = _of_section(root, location, message)
        return f"{file}:{_line(text, where)}: {message}"
    if _SECRET.search(".".join(location)) or written(given) in message:
        return f"{_at(file, text, location)}: {message}"
    what, _, remedy = message.rpartition("; ")
    return f"{_at(file, text, location)}: {what} (got {_shown(location, given)}); {remedy}"


def _of_section(root: type[BaseModel], location: Sequence[str], message: str) -> tuple[Sequence[str], str]:
    """Where a check of the whole section at ``location`` has found something, and what it says with its place."""
    first = _SAID_FIRST.match(message)
    if first is not None and (first[2] or _has(root, [*location, first[1]])):
        where = [*location, *first[1].split(".")]
        rest = message[first.end() :] if first[2] else message
        return where, f"{'.'.join(where if first[2] else location)}: {rest}"
    if location:
        return location, f"{'.'.join(location)}: {message}"
    *_, (section, key) = _SAID.findall(message) or [("", "")]
    return [*section.split("."), key], message


def _has(root: type[BaseModel], location: Sequence[str]) -> bool:
    """Whether the section at ``location[:-1]`` has the key."""
    section: Any = root
    for part in location[:-1]:
        section = _section_below(section, part)
    return section is not None and location[-1] in section.model_fields


def _printable(key: str) -> str:
    return key if key.isprintable() and key else json.dumps(key)


def _at(file: Path, text: str, location: Sequence[str]) -> str:
    return f"{file}:{_line(text, location)}: {'.'.join(location) or 'the file'}"


def _shown(location: Sequence[str], given: object) -> str:
    """The value given, as an error may show it: no section as a whole, and nothing where a secret may stand."""
    if isinstance(given, Mapping | BaseModel):
        return "a section"
    if _SECRET.search(".".join(location)):
        return "the value"
    shown = written(given)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _in_words(problem: Any, shown: str, given: object) -> tuple[str, str]:
    """What is wrong with a value that is of another kind, or outside its bounds, and what to write."""
    kind, bounds = problem["type"], problem.get("ctx", {})
    if kind in ("tuple_type", "list_type"):
        plain = isinstance(given, str | int | float | bool) and shown != "the value"
        example = f"[{json.dumps(given)}]" if plain else '["…"]'
        return f"{shown} is no list", f"write {example}"
    if kind in ("too_short", "string_too_short"):
        least = bounds["min_length"]
        return ("it is empty" if least == 1 else "it has too few entries"), f"give at least {least}"
    if kind == "string_pattern_mismatch":
        return f"{shown} is no name", "write letters, digits and _, and no digit in front"
    if kind == "literal_error":
        return f"{shown} is not known here", f"write {bounds['expected']}"
    for bound, wanted in (
        ("ge", "at least {}"),
        ("gt", "more than {}"),
        ("le", "at most {}"),
        ("lt", "less than {}"),
    ):
        if bound in bounds:
            limit = bounds[bound]
            said = json.dumps(render_duration(limit)) if isinstance(given, str) and limit >= 1_000 else limit
            return f"{shown} is out of bounds", f"write {wanted.format(said)}"
    what, remedy = KINDS.get(kind.partition("_")[0], (str(problem["msg"]), "write another value"))
    return f"{shown} is {what}", remedy


def _known(root: type[BaseModel], location: Sequence[str]) -> str:
    """The nearest key that there is instead of an unknown one, or all of its section."""
    section: Any = root
    for part in location[:-1]:
        section = _section_below(section, part)
    known = [name for name in section.model_fields if name != "root"] if section is not None else []
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"


def _shared(root: type[BaseModel], location: Sequence[str]) -> str | None:
    """What to say of a key of ``[labels]`` that is in the labels of a scene; None for any other key."""
    if list(location[::2][:2]) != ["scenes", "labels"] or len(location) != 4 or not _has(root, location[2:]):
        return None
    section = "labels.streams.KIND" if location[-1] == "streams" else "labels"
    return f"it is shared by all scenes, and not of one; declare it in [{section}]"


def _section_below(section: Any, part: str) -> Any:
    if not (isinstance(section, type) and issubclass(section, BaseModel)) or part not in section.model_fields:
        return section
    annotation = section.model_fields[part].annotation
    waiting = [annotation]
    while waiting:
        candidate = waiting.pop(0)
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        waiting += getattr(candidate, "__args__", ())
    return None


def line_of_key(text: str, key: str) -> int:
    """The line of a key like ``scenes.feed.labels.window``, or of the section that there is of it; else 1."""
    return _line(text, key.split("."))


def _line(text: str, location: Sequence[str]) -> int:
    """The line of the key at ``location``; else that of its innermost section that the file has; else 1."""
    lines = [line.strip() for line in text.splitlines()]
    section, found = "", 0
    for number, line in enumerate(lines, 1):
        if line.startswith("["):
            section = line.strip("[]").partition("]")[0].replace('"', "").replace(" ", "")
        for depth in range(len(location), 0, -1):
            here = ".".join(part for part in location[:depth] if not part.isdigit())
            key, equals, _ = line.partition("=")
            if line.startswith("["):
                reached = section == here or section.startswith(f"{here}.")
            else:
                named = key.strip().replace('"', "").replace(" ", "")
                whole = f"{section}.{named}" if section else named
                reached = bool(equals) and (whole == here or whole.startswith(f"{here}."))
            if reached:
                if depth > found:
                    found, at = depth, number
                break
    return at if found else 1


def _addition(location: Sequence[str]) -> str:
    """What to write for a key or section that is missing."""
    *parents, key = location
    examples = {
        ("streams",): 'add a section for each stream of events, like [streams.behaviour] with key = "user_id"',
        ("labels",): 'add [labels] with window = "15m", and [labels.streams.exposure] and [labels.streams.click]',
        ("labels", "streams"): "add a section for each kind of feedback, like [labels.streams.click]",
    }
    return examples.get(tuple(location), f"add {key} = … to {'[' + '.'.join(parents) + ']' if parents else 'the top'}")
