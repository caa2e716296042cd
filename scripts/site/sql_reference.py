"""The page of the aggregates and macros of streaming views, made from the tables that the loader reads by."""

from __future__ import annotations

import re

from dovetail.features.duck.macros import MACROS
from dovetail.features.language.calls import _NAMES, _REFUSED, MACROS_OF_AGGREGATES
from scripts.site.tables import cell, code, table

__all__ = ["sql_page"]

_MACRO = re.compile(r"CREATE MACRO (\w+)\(([^)]*)\) AS (.*)", re.DOTALL)


def sql_page() -> str:
    """The page, as Markdown."""
    accepted: dict[str, list[str]] = {}
    for name, function in _NAMES.items():
        accepted.setdefault(str(function), []).append(name)
    rows = [(code(names[0]), ", ".join(code(each) for each in names[1:])) for names in accepted.values()]
    macros = [found for found in map(_MACRO.match, MACROS) if found is not None and not found[1].startswith("__")]
    parts = [
        "# SQL",
        "",
        (
            "Definitions are DuckDB SQL; what they mean, with an example of each that a test runs, is on the page "
            "[What a feature means](../docs/semantics.md). These tables are made from those that the loader reads by."
        ),
        "",
        "## Aggregates of a streaming view",
        "",
        "Besides these, `list(x)` inside the macros below, and `count(DISTINCT x)`.",
        "",
        table(("aggregate", "other names for it"), rows),
        "## Macros",
        "",
        "They are plain DuckDB; any session that has run their text runs definitions unchanged.",
        "",
        table(
            ("macro", "around", "its text"),
            [
                (
                    code(f"{found[1]}({found[2]})"),
                    code(MACROS_OF_AGGREGATES.get(found[1], "")),
                    code(" ".join(found[3].split())),
                )
                for found in macros
            ],
        ),
        "## Refused, and what to write",
        "",
        "Every other aggregate of DuckDB is refused, too; these have a reason and a way out of their own.",
        "",
        table(
            ("function", "it", "instead"),
            [(code(name), cell(why), cell(instead)) for name, (why, instead) in sorted(_REFUSED.items())],
        ),
    ]
    return "\n".join(parts)
