"""The API as a process: over sockets and TLS, beside workers on a real Kafka, and killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dovetail.api import server
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.sdk import load
from scripts.servers.tls import make_certificates
from tests import forked
from tests.api.running import project_folder
from tests.app.small_project import at, request

COMMAND = Path(__file__).parent / "command.py"


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[tuple[forked.Forked, str]]:
    """``dovetail COMMAND`` in ``folder``, and the URL that it says; killed at the end."""
    log = folder / f"{uuid.uuid4().hex}.log"
    with log.open("wb") as said, forked.start([COMMAND, *command], cwd=folder, stdout=said, stderr=said) as process:
        try:
            yield process, _url(process, log)
        finally:
            process.kill()


def _url(process: forked.Forked, log: Path) -> str:
    pause = threading.Event()
    while process.poll() is None:
        found = re.search(r"process: api: url=(\S+)", log.read_text())
        if found is not None:
            return found[1]
        pause.wait(0.05)
    raise AssertionError(log.read_text())


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project")
    sent = [{"user_id": f"u{number}", "event_time": at(number)} for number in range(60)]
    for start in (0, 30):
        with serving(folder, "worker") as (process, url), httpx.Client(base_url=url, timeout=60) as client:
            for event in sent[start : start + 30]:
                assert client.post("/v1/events/behaviour", json=event).json()["accepted"] == 1
            answer = client.post("/v1/rank?features=true", json=request(f"r{start}", "u0", [1, 2], 59)).json()
            assert answer["items"] == [1, 2]
            process.kill()
            assert process.wait() == -9
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        kept = log.read("behaviour", 0, 0)
        snapshots = log.end_offsets("snapshots")
    assert kept is not None
    assert [json.loads(value or b"") for value in kept.values] == sent
    assert snapshots == {0: 2}


def test_it_stops_in_good_order_speaks_tls_and_says_nothing_of_tokens(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    make_certificates(tmp_path / "tls")
    known, unknown = "0123456789-of-ours", "9876543210-of-nobody"
    (tmp_path / "tokens").write_text(f"{known} read\n")
    tls = f'cert_file = "{tmp_path}/tls/server.pem"\nkey_file = "{tmp_path}/tls/server.key"'
    folder = project_folder(tmp_path / "project", f'{tls}\ntokens_file = "{tmp_path}/tokens"')
    trusting = ssl.create_default_context(cafile=str(tmp_path / "tls" / "ca.pem"))
    with serving(folder, "worker") as (process, url):
        assert url.startswith("https://127.0.0.1:")
        assert httpx.get(f"{url}/readyz", verify=trusting).json()["ready"]
        for token, path, status in ((known, "freshness", 200), (unknown, "freshness", 401), (known, known, 404)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.get(f"{url}/v1/{path}", verify=trusting, headers=headers).status_code == status
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))
        process.terminate()
        assert process.wait(60) == 0
    (said,) = (path.read_text() for path in folder.glob("*.log"))
    assert "process: api: url=https" in said
    assert known not in said
    assert unknown not in said


def test_calls_that_wait_when_it_stops_are_told_so(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project")
    with serving(folder, "worker", "--stop-timeout", "4s") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half, socket.create_connection((host, int(port))) as gone:
            head = "POST /v1/events/behaviour HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
            for connection in (half, gone):
                connection.sendall(head.encode())
            gone.shutdown(socket.SHUT_WR)
            gone.recv(4_096)  # whatever it is told
            process.terminate()
            with half.makefile("rb") as answer:
                said = answer.read()
        assert process.wait(60) == 0
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"the process stops" in said
    (log,) = folder.glob("*.log")
    assert "Traceback" not in log.read_text()


def test_connections_that_say_nothing_are_closed_and_the_oldest_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOOK_S", 0.01)
    monkeypatch.setattr(server, "_SILENT_S", 0.05)
    monkeypatch.setattr(server, "_most_connections", lambda _config: 2)
    config = ApiConfig(port=0)
    app = FastAPI()
    app.add_api_route("/", lambda: {"well": True})

    async def main() -> None:
        listener = server.listening(config)
        async with server.served(app, listener, config) as url:
            address = listener.getsockname()
            silent = [await asyncio.open_connection(*address) for _ in range(4)]
            silent[0][1].write(b"GET / HT")
            assert [await reader.read() for reader, _ in silent] == [b""] * 4
            async with httpx.AsyncClient() as client:
                assert (await client.get(url)).json() == {"well": True}
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("api", "reason"),
    [
        ('host = "192.0.2.1"\ntokens_env = "DOVETAIL_TEST_TOKENS"', "cannot listen on 192.0.2.1:0"),
        ('host = "0.0.0.0"', "can be reached from other machines: name tokens"),
        ('cert_file = "nothing.pem"\nkey_file = "nothing.key"', "are not a PEM certificate and its key"),
        ('reply_topic = "requests"', "topic 'requests' is declared twice"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, api: str, reason: str) -> None:
    folder = project_folder(tmp_path / "project")
    text = (folder / "dovetail.toml").read_text()
    (folder / "dovetail.toml").write_text(f"{text}{api}\n")
    environment = {**os.environ, "DOVETAIL_TEST_TOKENS": "a-token-of-ours-all read"}
    with forked.start(
        [COMMAND, "worker"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode in (1, 2)
    assert reason in said


def test_an_embedded_project_is_served_by_its_worker(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project")
    with forked.start([COMMAND, "serve"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "`dovetail worker` serves the API of this project itself" in said


@pytest.mark.services
def test_two_api_processes_share_a_kafka_with_a_worker(tmp_path: Path, kafka_url: str) -> None:
    folder = project_folder(tmp_path / "project")
    text = (folder / "dovetail.toml").read_text()
    name = f"api_{uuid.uuid4().hex[:8]}"
    text = text.replace('name = "small"', f'name = "{name}"')
    text = text.replace('state = "state"', f'state = "state"\nbroker = "{kafka_url}"')
    text = text.replace('feature_set = "ranking"', f'feature_set = "ranking"\ntopic = "{name}-requests"\n'
                        f'snapshots_topic = "{name}-snapshots"')  # fmt: skip
    for topic in ("behaviour", "exposure", "click"):
        section = "streams" if topic == "behaviour" else "labels.streams"
        text = text.replace(f"[{section}.{topic}]", f'[{section}.{topic}]\ntopic = "{name}-{topic}"')
    text = text.replace("[labels]", f'[labels]\nsamples_topic = "{name}-samples"')
    text += f'reply_topic = "{name}-replies"\n'
    (folder / "dovetail.toml").write_text(text)

    def asked(client: httpx.Client, number: int) -> dict[str, Any]:
        answer = client.post("/v1/rank?features=true", json=request(f"r{number}", "u", [1, 2, 3], 30))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    with (
        _worker(folder),
        serving(folder, "serve") as (_, first),
        serving(folder, "serve", "--port", "0") as (other, second),
        httpx.Client(base_url=first, timeout=60) as one,
        httpx.Client(base_url=second, timeout=60) as two,
    ):
        events = [{"user_id": "u", "event_time": at(second)} for second in range(5)]
        places = one.post("/v1/events/behaviour", json=events).json()["positions"]
        assert [place["offset"] for place in places] == [0, 1, 2, 3, 4]
        pause = threading.Event()
        while two.get("/v1/freshness").json()["views"]["activity"]["positions"] != {"0": 5}:
            pause.wait(0.05)
        for number in range(0, 20, 2):
            assert asked(one, number)["features"] == asked(two, number + 1)["features"] == {"events": [5, 5, 5]}
        other.kill()
        other.wait()
        assert asked(one, 20)["request_id"] == "r20"
        # A program beside them asks and sends, too.
        project = load(folder)
        ranked = project.rank([request("r21", "u", [1, 2, 3], 30)])
        assert (ranked.column("item_id").to_pylist(), ranked.column("events").to_pylist()) == ([1, 2, 3], [5, 5, 5])
        assert project.send("behaviour", [{"user_id": "u", "event_time": at(10)}]) == 1
        past = project.features([request("p", "u", [1], 9), request("q", "u", [1], 10)])
        assert past.column("events").to_pylist() == [5, 6]


@contextmanager
def _worker(folder: Path) -> Iterator[None]:
    command: list[str | Path] = [COMMAND, "worker", "--no-api", "--agents", "features,snapshots"]
    with (
        (folder / "stages.log").open("wb") as log,
        forked.start(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        pause = threading.Event()
        while "worker: started" not in (folder / "stages.log").read_text():
            assert process.poll() is None, (folder / "stages.log").read_text()
            pause.wait(0.05)
        try:
            yield
        finally:
            process.kill()
