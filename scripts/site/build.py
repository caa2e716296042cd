"""``python -m scripts.site.build ZENSICAL``: the site in .dovetail/documents/site, with warnings as errors.

``ZENSICAL`` is the program that makes HTML of Markdown, in an environment of its own: see `make docs`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.site.links import broken_links
from scripts.site.pages import put_together

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".dovetail" / "documents"


def main(zensical: str) -> int:
    """Build the site and check its links; the exit code says whether all is well."""
    put_together(ROOT, FOLDER)
    program = Path(zensical).absolute()
    built = subprocess.run([program, "build", "--clean", "--strict"], check=False, cwd=FOLDER)
    if built.returncode:
        return built.returncode
    site = FOLDER / "site"
    if broken := broken_links(site):
        print("\n".join(broken), file=sys.stderr)
        print(f"{len(broken)} links lead nowhere, or to what is loaded from elsewhere", file=sys.stderr)
        return 1
    print(f"{site / 'index.html'}: {len(list(site.rglob('*.html')))} pages, every link of them leads somewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
