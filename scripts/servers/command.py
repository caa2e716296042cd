"""``scripts/services``: the command line."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from scripts.servers import instances
from scripts.servers.base import ServiceError, run

__all__ = ["main"]

_DESCRIPTION = """\
Apache Kafka, Redis and PostgreSQL for tests, on 127.0.0.1.

  up       start them (all, or the NAMES given) and print where they are, as environment variables
  down     kill them and delete their data
  status   say which are ready; exit code 1 when one that was started is not
  run      start them in a folder of their own on free ports, run a command with the environment set, always clean up:
           scripts/services run redis -- pytest -m services tests/platform/stores
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 when a server cannot be started, the command's own for ``run``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[words.index("--") + 1 :] if "--" in words else []
    options = _parser().parse_args(words[: words.index("--")] if "--" in words else words)
    # As an exception, so that what was started is stopped.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if options.install:
            _install(options.names)
        return _act(options, command)
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/services", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("act", choices=["up", "down", "status", "run"])
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(instances.NAMES)}; all by default")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="an instance of its own, on free ports, with data here")
    parser.add_argument("--port", action="append", default=[], metavar="NAME=PORT", help="where a server listens")
    parser.add_argument("--install", action="store_true", help="as root on Debian: install what is missing, by apt-get")
    return parser


def _act(options: argparse.Namespace, command: Sequence[str]) -> int:
    names = tuple(options.names) or instances.NAMES
    unknown = [name for name in names if name not in instances.NAMES]
    if unknown:
        raise ServiceError(f"there is no {unknown[0]!r}; choose from {', '.join(instances.NAMES)}")
    folder = options.dir or instances.DEFAULT_FOLDER
    if options.act == "run":
        return _run(names, command)
    if options.act == "up":
        instances.start(folder, names, _ports(options.port))
        for key, value in instances.environment(folder).items():
            print(f"{key}={value}")
    elif options.act == "down":
        instances.remove(folder, names)
    else:
        states = instances.status(folder)
        for name in names:
            print(f"{name}: {states[name]}")
        return 0 if {states[name] for name in names} <= {"ready", "absent"} else 1
    return 0


def _run(names: Sequence[str], command: Sequence[str]) -> int:
    if not command:
        raise ServiceError("run: the command is missing; it comes after --")
    folder = Path(tempfile.mkdtemp(prefix="dovetail-services-"))
    try:
        instances.start(folder, names)
        environment = {**os.environ, **instances.environment(folder)}
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        instances.remove(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _ports(words: Sequence[str]) -> dict[str, int]:
    ports = {}
    for word in words:
        name, _, port = word.partition("=")
        if name not in instances.NAMES or not port.isdigit():
            raise ServiceError(f"--port {word}: write NAME=PORT, with a NAME of {', '.join(instances.NAMES)}")
        ports[name] = int(port)
    return ports


def _install(names: Sequence[str]) -> None:
    kinds = [kind for name, kind in instances.KINDS.items() if not names or name in names]
    packages = sorted({kind.packages[program] for kind in kinds for program in kind.missing()})
    if not packages:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise ServiceError(f"--install needs root and apt-get; missing are {', '.join(packages)}")
    print(f"services: installing {', '.join(packages)}", file=sys.stderr)
    quietly = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    run([*quietly, "update"])
    run([*quietly, "install", "--yes", "--no-install-recommends", *packages])


def _terminated(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
