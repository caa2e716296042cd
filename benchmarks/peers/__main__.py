"""Measures all comparisons, or those named, and writes their tables into the page."""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys

from .comparisons import COMPARISONS
from .measuring import run
from .page import PAGE, text, write


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMPARISONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each contestant, in turn; default 3")
    parser.add_argument("--scale", type=float, default=1.0, help="times the size of the data; default 1")
    parser.add_argument("--print-only", action="store_true", help=f"leave {PAGE.name} as it is")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(COMPARISONS)):
        parser.error(f"there is no comparison {unknown[0]!r}; there are {', '.join(COMPARISONS)}")
    # So that a run that is ended removes its servers and files, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    today = dt.datetime.now(dt.UTC).date()
    for name in options.names or COMPARISONS:
        outcome = run(COMPARISONS[name], options.rounds, options.scale, lambda line: print(line, file=sys.stderr))
        made = text(outcome, today)
        print(f"## {outcome.comparison.title}\n\n{made}\n", flush=True)
        if not options.print_only:
            write(name, made)


if __name__ == "__main__":
    main()
