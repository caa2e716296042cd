"""The health server under those who connect and say nothing, or say it slowly."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dovetail.platform.errors import StoreError
from dovetail.platform.process.health import CONNECTION_S, CONNECTIONS, HealthServer


class Seconds:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def broken() -> tuple[bool, dict[str, Any]]:
    raise RuntimeError("cannot reach redis://me:hunter2@host/0")


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def server(seconds: Seconds) -> Iterator[HealthServer]:
    server = HealthServer(
        "127.0.0.1", 0, lambda: (True, {"status": "ok"}), broken, CollectorRegistry(), seconds=seconds
    )
    yield server
    server.close()


def ask(server: HealthServer, path: str = "/healthz") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def connect(server: HealthServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(b"GET /healthz HT")
    return connection


def of_server() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_hundreds_of_half_open_connections_take_a_few_threads_and_no_answer(server: HealthServer) -> None:
    half_open = []
    for _ in range(600):
        half_open.append(connect(server))
        assert of_server() <= CONNECTIONS + 1  # one whose place is free may be on its last line
    assert ask(server) == (200, b'{"status": "ok"}\n')
    assert half_open[0].recv(1) == b""  # the oldest had to go
    for connection in half_open:
        connection.close()


def test_a_connection_that_takes_too_long_is_ended(server: HealthServer, seconds: Seconds) -> None:
    slow = connect(server)
    assert ask(server)[0] == 200
    seconds.now += CONNECTION_S + 1
    assert slow.recv(1) == b""
    slow.close()


def test_an_answer_that_fails_says_so_without_a_password(server: HealthServer) -> None:
    status, body = ask(server, "/readyz")
    assert (status, body) == (500, b"RuntimeError('cannot reach redis://me:***@host/0')\n")
    assert str(StoreError("redis://me:hunter2@host/0")) == "redis://me:***@host/0"
