"""Two sets of servers that start side by side never have a port in common."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from scripts.servers import Redis, ServiceError, instances, ports
from scripts.servers.base import PortTaken
from tests.places import ROOT

OTHER = "import sys; from scripts.servers.ports import reserve; print(*reserve(7), flush=True); sys.stdin.read()"


class Drawing:
    """The ports that are drawn, one after the other."""

    def __init__(self, *drawn: int) -> None:
        self.left = list(drawn)

    def __call__(self, first: int, end: int) -> int:
        return self.left.pop(0)


@pytest.fixture
def free() -> Iterator[Sequence[int]]:
    """Ports that nobody has, nor the next ones."""
    found = ports.reserve(3, offsets=(0, 1))
    both = [port + offset for port in found for offset in (0, 1)]
    ports.release(both)
    yield found
    ports.release(both)


def test_what_another_process_has_reserved_is_passed_over_until_it_ends(
    free: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = [int(word) for word in other.stdout.readline().split()]
        assert len(set(theirs)) == 7
        monkeypatch.setattr(random, "randrange", Drawing(*theirs, free[0]))
        assert ports.reserve() == [free[0]]
        other.kill()  # cleans nothing up
    monkeypatch.setattr(random, "randrange", Drawing(theirs[0]))
    assert ports.reserve() == [theirs[0]]
    ports.release(theirs)


def test_one_that_is_reserved_here_or_listened_on_is_passed_over(
    free: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = free
    with closing(socket.create_server(("127.0.0.1", first))):
        monkeypatch.setattr(random, "randrange", Drawing(first, second, second, first, third))
        assert ports.reserve(2) == [second, third]
    ports.release([second])
    monkeypatch.setattr(random, "randrange", Drawing(third, second, first))
    assert ports.reserve(2) == [second, first]  # nobody listens there any more


def test_a_port_is_taken_with_those_beside_it_or_not_at_all(
    free: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", free[0] + 1))):
        monkeypatch.setattr(random, "randrange", Drawing(free[0], free[1], free[1] + 1, free[0]))
        assert ports.reserve(offsets=(0, 1)) == [free[1]]
        assert ports.reserve() == [free[0]]


class Late(Redis):
    """A server that finds one of its first ports taken; ``tries`` has all it was made with."""

    tries: list[int]
    failing = 2

    def format(self) -> None:
        self.tries.append(self.port)

    @classmethod
    def missing(cls) -> list[str]:
        return []

    def start(self) -> None:
        if len(self.tries) <= self.failing:
            raise PortTaken(f"port {self.port} is in use")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[Late]:
    monkeypatch.setattr(Late, "tries", [], raising=False)
    monkeypatch.setattr(instances, "KINDS", {"redis": Late})
    return Late


def test_a_server_whose_port_was_taken_meanwhile_gets_another(tmp_path: Path, late: type[Late]) -> None:
    (server,) = instances.start(tmp_path / "instance", ["redis"])
    assert len(set(late.tries)) == 3
    assert server.port == late.tries[-1]
    server.remove()
    assert not server.folder.exists()


def test_it_is_not_tried_forever_and_a_port_that_was_asked_for_not_twice(
    tmp_path: Path, late: type[Late], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PortTaken, match="port 12345 is in use"):
        instances.start(tmp_path / "instance", ["redis"], {"redis": 12_345})
    assert late.tries == [12_345]
    monkeypatch.setattr(late, "failing", 99)
    with pytest.raises(ServiceError):
        instances.start(tmp_path / "instance", ["redis"])
    assert len(late.tries) == 6
    assert not (tmp_path / "instance").exists()


def test_a_server_does_not_start_beside_another_that_would_answer_for_it(tmp_path: Path, free: Sequence[int]) -> None:
    server = Redis(tmp_path / "redis")
    server.folder.mkdir()
    (server.folder / "ports.json").write_text(f'{{"redis": {free[0]}}}')
    with (
        closing(socket.create_server(("127.0.0.1", free[0]))),
        pytest.raises(PortTaken, match=rf"redis cannot start: its port {free[0]} \(redis\) is in use"),
    ):
        server.start()
    assert not server.log.exists()
