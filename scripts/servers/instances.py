"""An instance: some of the servers, below one folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.servers.base import PortTaken, Server, ServiceError
from scripts.servers.kafka import Kafka
from scripts.servers.ports import reserve
from scripts.servers.postgresql import PostgreSQL
from scripts.servers.redis import Redis

__all__ = ["DEFAULT_FOLDER", "KINDS", "NAMES", "environment", "existing", "remove", "start", "status"]

KINDS: Mapping[str, type[Server]] = {kind.name: kind for kind in (Kafka, Redis, PostgreSQL)}
NAMES: tuple[str, ...] = tuple(KINDS)

#: Of the instance with the fixed ports. Not below the repository: PostgreSQL's user may not be let in there.
DEFAULT_FOLDER = Path(tempfile.gettempdir()) / f"dovetail-services-{os.getuid()}"

#: How often a server with ports of no matter which number is made before its failure to get them is told.
_ATTEMPTS = 5


def existing(folder: Path, names: Sequence[str] = NAMES) -> list[Server]:
    """Those of the servers that exist in ``folder``, running or not."""
    made = [KINDS[name](folder / name) for name in names]
    return [server for server in made if (server.folder / "ports.json").exists()]


def start(folder: Path, names: Sequence[str] = NAMES, ports: Mapping[str, int] | None = None) -> list[Server]:
    """Have these servers running in ``folder``: made where they are missing, started where they are down.

    ``ports`` are the main ports wanted, by name of server. Without them :data:`DEFAULT_FOLDER` has the fixed ports and
    another folder has free ones, and others when somebody takes one before its server does. When one fails, those made
    here are removed, and ServiceError is raised.
    """
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise ServiceError(f"{folder} belongs to somebody else; choose another folder with --dir")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    made: list[Server] = []
    servers: list[Server] = []
    try:
        for name in names:
            server = KINDS[name]((folder / name).absolute())
            servers.append(server)
            if not (server.folder / "ports.json").exists():
                made.append(server)
                _make(server, folder, (ports or {}).get(name))
            else:
                server.start()
    except BaseException:
        _remove(made, folder)
        raise
    return servers


def remove(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Kill these servers and delete their data; the folder, too, when nothing is left in it."""
    _remove([KINDS[name](folder / name) for name in names], folder)


def environment(folder: Path) -> dict[str, str]:
    """The variables by which tests find the servers of ``folder``, and their handles."""
    urls = {f"DOVETAIL_TEST_{server.name.upper()}": server.url for server in existing(folder)}
    return {**urls, "DOVETAIL_TEST_SERVICES": str(folder.absolute())}


def status(folder: Path) -> dict[str, str]:
    """By name: ``ready``, ``running`` (but not answering), ``stopped`` (with data) or ``absent``."""
    found = {server.name: server for server in existing(folder)}
    return {name: _state(found.get(name)) for name in NAMES}


def _state(server: Server | None) -> str:
    if server is None:
        return "absent"
    if server.pid is None:
        return "stopped"
    return "ready" if server.answers() else "running"


def _make(server: Server, folder: Path, wanted: int | None) -> None:
    """Make it and start it; on other ports when one is taken, if nobody has said which."""
    attempts = 1 if wanted is not None or folder == DEFAULT_FOLDER else _ATTEMPTS
    for left in reversed(range(attempts)):
        server.create(_ports(server, folder, wanted))
        try:
            server.start()
        except PortTaken:
            if not left:
                raise
            server.remove()
        else:
            return


def _ports(server: Server, folder: Path, wanted: int | None) -> dict[str, int]:
    names = list(server.fixed_ports)
    if wanted is not None:
        return dict(zip(names, range(wanted, wanted + len(names)), strict=True))
    if folder == DEFAULT_FOLDER:
        return dict(server.fixed_ports)
    return dict(zip(names, reserve(len(names)), strict=True))


def _remove(servers: Sequence[Server], folder: Path) -> None:
    for server in servers:
        if server.folder.exists():
            server.remove()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
