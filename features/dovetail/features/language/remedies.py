"""Remedies for text that DuckDB refuses: its message says what is wrong, and its hints, if read, what to do."""

from __future__ import annotations

import re

from dovetail.features.duck.parsing import KEYWORD_BEFORE, BindError

__all__ = ["remedy_of", "remedy_of_list"]

_SHOWN = 3
#: What a message says, and what to write; groups of the pattern stand in the remedy. The first that matches counts.
_REMEDIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), remedy)
    for pattern, remedy in (
        (r"is not determined by its arguments\n(?P<a>.+)", "{a}"),
        (r"computing it once takes[^\n]*\n(?P<a>.+)", "{a}"),
        (r"Did you mean \"(?P<a>[^\"]+)\"", "did you mean {a}?"),
        (r"Candidate (?:Entries|bindings): (?P<a>[^\n]+)", "known are {a}"),
        (r"window \"(?P<a>[^\"]+)\" does not exist", "declare it: WINDOW {a} AS (PARTITION BY … ORDER BY … RANGE …)"),
        (
            rf"(?:syntax error at or near).*?\"(?P<b>[^\"]+)\".*{KEYWORD_BEFORE}(?P<a>\w+)",
            "{a} is a keyword: if it is a name, write it in double quotes; else complete what is between it and {b}",
        ),
        (
            r"(?:syntax error at or near|SYNTAX ERROR).*?\"(?P<a>[^\"]+)\"",
            "complete what stands before {a}; if {a} is a name, write it in double quotes",
        ),
        (r"[Ss]yntax error at end", "complete the statement: something is open where the text ends"),
        (
            r"must appear in the GROUP BY|aggregates? (?:cannot|can not)|cannot contain (?:window|aggregate)",
            "write one aggregate with its own OVER for each value, and compute with the values around them",
        ),
        (r"Cannot extract field '(?P<a>[^']+)'", "only a STRUCT has members: read the value itself, or declare {a}"),
        (r"UNNEST", "keep the list, and take elements with x[1] or a number of it like len(x)"),
        (
            r"Function with name (?P<a>\S+) (?:does not exist|is not)",
            "DuckDB has no function {a}: compute it of those that it has, or send the value with the row",
        ),
        (r"Could not convert|Conversion Error|[Uu]nimplemented type for cast",
         "write a literal of the other side's type, or TRY_CAST, which gives NULL where there is no value"),
        (r"Cannot (?:compare|mix|combine) values of type|explicit cast", "CAST one side to the type of the other"),
        (r"Table with name (?P<a>\S+) does not exist", "{a} is not declared: read a declared stream, table or view"),
        (r"[Oo]verflow|Out of Range", "CAST the operands to BIGINT or DECIMAL(18,s), where the result has room"),
    )
)  # fmt: skip


def remedy_of(error: BindError) -> str:
    """The remedy for the text that ``error`` is about."""
    found = _candidates(error.hints)
    if found:
        return f"CAST the arguments to types that it takes: {found}"
    whole = f"{error}\n{error.hints}"
    for pattern, remedy in _REMEDIES:
        match = pattern.search(whole)
        if match is not None:
            return remedy.format(**match.groupdict())
    return "write what DuckDB's message asks for: the text runs there as it is"


def _candidates(hints: str) -> str:
    """The signatures that DuckDB proposes, without the names of their parameters."""
    _, _, listed = hints.partition("Candidate functions:")
    lines = [line.strip() for line in listed.splitlines() if "(" in line and "LINE" not in line and "^" not in line]
    shown = [re.sub(r"\"\w+\" (?=[A-Z*])", "", line.partition(" -> ")[0]) for line in lines]
    shown = [re.sub(r"^\"(.+?)\"\(", r"\1(", line).replace(", /)", ")") for line in shown]
    return ", ".join(shown[:_SHOWN])


def remedy_of_list(function: str, argument: str) -> str:
    """The remedy for an aggregate of a list: element by element, or over the lists of the newest events."""
    if function in ("sum", "avg", "min", "max", "var_samp", "var_pop", "stddev_samp", "stddev_pop"):
        each = f"[{function}({argument}[1]) OVER w, {function}({argument}[2]) OVER w]"
        if function in ("sum", "avg"):
            return (
                f"write {function}_each(list(CAST({argument} AS DECIMAL(12,6)[n])) OVER w) for arrays of n, or {each}"
            )
        return f"write it element by element: {each}"
    joined = f"array_to_string({argument}, '|')"
    if function == "top_k":
        return f"write top_k(histogram_each(list({argument}) OVER w), 3)"
    if function == "histogram":
        lists = f"list_transform(newest(list({joined}) OVER w, 1000), lambda x: string_split(x, '|'))"
        newest = f"of the newest 1,000 events list_histogram(flatten({lists}))"
        return f"write histogram_each(list({argument}) OVER w) over a frame of time; {newest}"
    return f"use an element like {argument}[1], a number like len({argument}), or {joined}"
