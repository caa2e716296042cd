"""The lowest versions that pyproject.toml allows, as requirements: ``python scripts/bounds.py``.

With the name of an extra, ``python scripts/bounds.py docs``, its requirements as they stand, and nothing else.

Needs nothing but Python, so that it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["lowest"]

_BOUNDED = re.compile(r"(?P<name>[\w.-]+(?:\[[\w,-]+\])?)>=(?P<version>[\w.]+)")


def lowest(requirements: Iterable[str]) -> list[str]:
    """``name==version`` for each of ``name>=version,…``; exits with a message where there is no lower bound."""
    found = []
    for requirement in requirements:
        bounded = _BOUNDED.match(requirement)
        if bounded is None:
            sys.exit(f"{requirement} has no lower bound; write {requirement}>=VERSION in pyproject.toml")
        found.append(f"{bounded['name']}=={bounded['version']}")
    return found


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if len(sys.argv) > 1:
        print("\n".join(extras[sys.argv[1]]))
    else:
        optional = [each for extra in ("api", "plots", "postgresql", "redis") for each in extras[extra]]
        print("\n".join(lowest([*project["dependencies"], *optional])))
