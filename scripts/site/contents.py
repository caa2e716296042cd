"""The order of the site: what a newcomer needs first comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["GENERATED", "navigation"]

#: Pages that are made from the code, and their titles.
GENERATED = {
    "reference/commands.md": "Commands",
    "reference/configuration.md": "dovetail.toml",
    "reference/sql.md": "SQL",
    "reference/http.md": "HTTP",
    "reference/python.md": "Python",
}
_FIRST = ("docs/your-first-samples.md", "docs/installing.md", "docs/demo-logs.md")
_CONCEPTS = ("docs/concepts.md", "docs/glossary.md", "ARCHITECTURE.md")
_MEANING = ("docs/semantics.md", "docs/types.md")
_OPERATIONS = ("docs/operations.md", "deploy/README.md", "docs/benchmarks.md", "docs/benchmarks-peers.md")
_PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md", "docs/kinds-of-faults.md", "docs/releasing.md", "LICENSE.md")
#: How-to pages in the order of a row's way; a page that stands nowhere comes behind them.
_HOW_TO = (
    "docs/python.md",
    "docs/replay.md",
    "docs/http.md",
    "docs/labels.md",
    "docs/samples.md",
    "docs/training.md",
    "docs/scoring.md",
    "docs/experiments.md",
    "docs/scenes.md",
    "docs/backfill.md",
    "docs/spark.md",
    "docs/quality.md",
    "docs/console.md",
)

Section = tuple[str, Sequence[str]]


def navigation(pages: Iterable[str]) -> list[Section]:
    """The sections with the pages of each, out of the paths of all there are; each page stands once.

    Raises:
        ValueError: a page that has a place is not there.
    """
    there = set(pages)
    notebooks = sorted(page for page in there if page.startswith("docs/notebooks/"))
    decisions = sorted(page for page in there if page.startswith("docs/decisions/"))
    placed = {"README.md", *_FIRST, *_CONCEPTS, *_MEANING, *_OPERATIONS, *_PROJECT, *_HOW_TO, *GENERATED}
    if missing := sorted(placed - there):
        raise ValueError(f"scripts/site/contents.py has a place for {missing[0]}, which is not there")
    others = sorted(there - placed - set(notebooks) - set(decisions))
    servers = [page for page in others if page.startswith("deploy/")]
    return [
        ("Dovetail", ["README.md"]),
        ("First samples", _FIRST),
        ("Concepts", _CONCEPTS),
        ("How to", [*_HOW_TO, *(page for page in others if page not in servers)]),
        ("Notebooks", notebooks),
        ("Reference", [*_MEANING, *GENERATED]),
        ("Operations", [*_OPERATIONS, *servers]),
        ("Decisions", decisions),
        ("The project", _PROJECT),
    ]
