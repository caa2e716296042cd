"""Reads ``dovetail.toml``, or says why it is none."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.platform.errors import ConfigError

__all__ = ["merged", "read_sections"]

#: What the parser says of a section that is declared again.
_TWICE = re.compile(r"Cannot declare \('(.*?)',?\) twice")


def read_sections(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of ``file``, and its sections.

    Raises:
        ConfigError: it is not there, cannot be read, or is not TOML.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; run `dovetail init DIR` for a new project") from None
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read: {error.strerror}; make it a file that may be read") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not valid TOML: it is not UTF-8; write it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in a thousand lists
        where = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        what = str(error).replace(where[0], "") if where else str(error)
        what = _TWICE.sub(r"[\1] is there twice", what).replace("', '", ".")
        if what == "Cannot overwrite a value" and where and where[1]:
            key = text.splitlines()[int(where[1]) - 1].partition("=")[0].strip()
            what = f"the key {key} is there twice"
        at = f"{file}:{where[1] or text.count(chr(10)) + 1}" if where else f"{file}"
        remedy = 'write sections as [name] and settings as key = value, texts in "quotes"'
        raise ConfigError(f"{at}: not valid TOML: {what}; {remedy}") from error


def merged(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with the values of ``overrides`` instead of its own, section by section."""
    both = dict(data)
    for key, value in overrides.items():
        before = both.get(key)
        both[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return both
