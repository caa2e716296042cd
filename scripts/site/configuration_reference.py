"""The page of every key of ``dovetail.toml``, made from the classes that read it and the comments of their fields."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.load import Config
from scripts.site.tables import cell, code, table

__all__ = ["configuration_page", "sections"]

_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"))
_FIELD = re.compile(r"^    (\w+): ")
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def sections(model: type[BaseModel] = Config, at: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section by its name in the file, like ``labels.streams.NAME``; the file's own keys under an empty name."""
    yield at, model
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        for kind, below in _models(field.annotation):
            path = f"{at}.{name}" if at else name
            yield from sections(below, f"{path}.NAME" if kind is dict else f"{path}[]" if kind else path)


def configuration_page() -> str:
    """The page, as Markdown."""
    parts = [
        "# dovetail.toml",
        "",
        (
            "Made from the classes that read the file. An unknown key is refused with the nearest known one; a "
            'duration is a whole number and a unit: `"90s"`, `"15m"`, `"1h"`, `"7d"`; relative paths begin at the '
            "folder of the file. The file of `dovetail init` shows all of it in use."
        ),
        "",
    ]
    for name, model in sections():
        parts += [f"## {_heading(name)}", "", inspect.cleandoc(model.__doc__ or "").replace("``", "`"), ""]
        comments = _comments(model)
        rows = [
            (code(key), _type(field), _default(field), cell(comments.get(key, "").replace("``", "`")))
            for key, field in model.model_fields.items()
            if not field.exclude and not _models(field.annotation)
        ]
        if rows:
            parts.append(table(("key", "value", "default", "meaning"), rows))
    return "\n".join(parts)


def _heading(name: str) -> str:
    return "Keys at the top" if not name else f"[[{name.removesuffix('[]')}]]" if name.endswith("[]") else f"[{name}]"


def _models(annotation: Any) -> list[tuple[Any, type[BaseModel]]]:
    """The sections in a field's type, each with what holds it: ``dict``, ``list`` or nothing."""
    origin = get_origin(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [(None, annotation)]
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [found for each in get_args(annotation) for found in _models(each)]
    if origin in (dict, list, tuple):
        kind = dict if origin is dict else list
        return [(kind, model) for each in get_args(annotation) for _, model in _models(each)]
    return []


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """By field, the ``#:`` lines before it, in the class that declares it."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not (issubclass(each, BaseModel) and each.__module__.startswith("dovetail.")):
            continue
        said: list[str] = []
        for line in textwrap.dedent(inspect.getsource(each)).splitlines():
            field = _FIELD.match(line)
            if line.strip().startswith("#:"):
                said.append(line.strip().removeprefix("#:").strip())
            elif field and said:
                found[field[1]] = " ".join(said)
                said = []
            elif line.strip():
                said = []
    return found


def _type(field: Any) -> str:
    if _is_duration(field):
        return "duration"
    return cell(_named(field.annotation))


def _is_duration(field: Any) -> bool:
    marks = get_args(DurationUs)[1:]
    return any(mark in field.metadata for mark in marks) or DurationUs in get_args(field.annotation)


def _named(annotation: Any) -> str:
    origin = get_origin(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Annotated:
        return "duration" if annotation == DurationUs else _named(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(code(f'"{each}"' if isinstance(each, str) else str(each)) for each in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_named(each) for each in get_args(annotation) if each is not type(None))
    if origin in (tuple, list, frozenset, set):
        return f"list of {_named(get_args(annotation)[0])}"
    if origin is dict:
        return f"table of {_named(get_args(annotation)[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return ", ".join(code(f'"{each.value}"') for each in annotation)
    return getattr(annotation, "__name__", str(annotation))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ("", (), {}, frozenset()):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if _is_duration(field) and isinstance(value, int):
        return code(_duration(value))
    return code(
        f'"{value}"' if isinstance(value, str | Path) else str(list(value)) if isinstance(value, tuple) else str(value)
    )


def _duration(micros: int) -> str:
    for size, unit in _UNITS:
        if micros and micros % size == 0:
            return f'"{micros // size}{unit}"'
    return f'"{micros // 1_000_000}s"'
