"""Ports for servers of tests, reserved among all processes of this machine that ask here.

A port on which nobody listens is not free yet: another process may have chosen it for a server that is about to start,
or that it has killed and will start again. So a port is taken by a name, too: a Unix socket in Linux's abstract
namespace, which one process can have, which leaves nothing behind, and which ends with its process.
"""

from __future__ import annotations

import atexit
import random
import socket
from collections.abc import Iterable, Sequence

__all__ = ["nobody_listens", "release", "reserve"]

#: Below the ports that the kernel gives to outgoing connections: while a server is down, a client that keeps trying
#: could be given the server's port as its own, connect to itself, and keep the server from coming back.
_FIRST, _END = 10_000, 32_000

# What this process has reserved, by port.
_reserved: dict[int, socket.socket] = {}


def reserve(count: int = 1, *, offsets: Sequence[int] = (0,)) -> list[int]:
    """Ports on which nobody listens on 127.0.0.1, this process's until :func:`release` or its end.

    ``offsets``, from 0 up: a port is only taken together with those so much higher.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(_FIRST, _END - max(offsets))
        group = [port + offset for offset in offsets]
        mine = [one for one in group if _reserve(one)]
        if len(mine) == len(group) and all(map(nobody_listens, group)):
            found.append(port)
        else:
            release(mine)
    return found


def release(ports: Iterable[int]) -> None:
    """Give up what this process has reserved of these ports."""
    for port in ports:
        if port in _reserved:
            _reserved.pop(port).close()


@atexit.register
def _release_all() -> None:
    release(list(_reserved))


def nobody_listens(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1 at this port now."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Whether nobody, this process included, had reserved it; now it has."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0dovetail-test-port-{port}")
    except OSError:
        name.close()
        return False
    _reserved[port] = name
    return True
