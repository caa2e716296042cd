"""How the stores get into Redis: users, passwords, TLS, and what is said when they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import ViewCommit
from dovetail.platform.stores.online_stores import open_online_store
from tests.platform.stores.faults.redis_cluster import free_port


def test_a_password_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOVETAIL_NO_SUCH", raising=False)
    with pytest.raises(ConfigError, match="environment variable DOVETAIL_NO_SUCH is not set"):
        open_online_store("redis://localhost", "x", RedisConfig(password_env="DOVETAIL_NO_SUCH"))
    with pytest.raises(ConfigError, match=r"password_file: it cannot be read: No such file"):
        open_online_store("redis://localhost", "x", RedisConfig(password_file=Path("none")).below(tmp_path))
    (tmp_path / "secret").write_text("p w\n")
    assert RedisConfig(password_file=Path("secret")).below(tmp_path).password() == "p w"


def test_a_certificate_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"ca\.pem: no such file; name a PEM file for each of ca, certificate and key"
    ):
        open_online_store("rediss://localhost", "x", RedisConfig(ca=tmp_path / "ca.pem"))


@pytest.mark.parametrize("url", ["redis://u:secret@localhost:1/0", "redis+cluster://localhost:1?password=secret"])
def test_messages_keep_passwords_to_themselves(url: str) -> None:
    with pytest.raises(StoreError, match=r"\*\*\*.*Redis does not answer") as raised:
        open_online_store(url, "x")
    assert "secret" not in str(raised.value)


def test_messages_name_the_port() -> None:
    with pytest.raises(StoreError, match=r"^redis://localhost:1/0: Redis does not answer"):
        open_online_store("redis://localhost:1/0", "x")


@pytest.mark.services
def test_an_acl_user_gets_in_with_the_password_of_the_environment(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, name = f"dovetail-{os.getpid()}", f"acl-{os.getpid()}"
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", user, "reset", "on", ">pass", f"~{{{name}:*", "+@hash", "+@sortedset",
            "+@scripting", "+@transaction", "+@connection", "+@keyspace",
        )  # fmt: skip
        try:
            monkeypatch.setenv("DOVETAIL_TEST_PASSWORD", "wrong")
            config = RedisConfig(username=user, password_env="DOVETAIL_TEST_PASSWORD")
            with pytest.raises(StoreError, match="Redis refuses this user"):
                open_online_store(redis_url, name, config)
            monkeypatch.setenv("DOVETAIL_TEST_PASSWORD", "pass")
            store = open_online_store(redis_url, name, config)
            store.commit(0, [ViewCommit("v", 0, Progress(1), {b"k": b"1"})], [])
            assert list(store.read({"v": [b"k"]})["v"].blobs) == [b"1"]
            store.close()
            other = open_online_store(redis_url, "other", config)
            with pytest.raises(StoreError, match="Redis failed: NoPermissionError"):
                other.commit(0, [ViewCommit("v", 0, Progress(1), {b"k": b"1"})], [])
            other.close()
        finally:
            admin.acl_deluser(user)


@pytest.mark.services
def test_a_redis_that_evicts_keys_is_refused(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        try:
            admin.config_set("maxmemory-policy", "allkeys-lru")
            open_online_store(redis_url, "evicting").close()  # as long as nothing bounds its memory, nothing goes
            admin.config_set("maxmemory", 1 << 30)
            with pytest.raises(
                StoreError, match=r"evicts keys when its 1073741824 bytes .*maxmemory-policy allkeys-lru"
            ):
                open_online_store(redis_url, "evicting")
        finally:
            admin.config_set("maxmemory", 0)
            admin.config_set("maxmemory-policy", "noeviction")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Redis that speaks TLS only and asks for client certificates; its URL, and the folder of the PEM files."""
    binary, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if binary is None or openssl is None:
        pytest.skip("redis-server and openssl are needed")
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    names += ["-addext", "keyUsage=digitalSignature,keyCertSign"]  # which Python 3.13 wants to see
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    arguments = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    for option, file in (("key", "key"), ("cert", "certificate"), ("ca-cert", "certificate")):
        arguments += [f"--tls-{option}-file", str(folder / f"{file}.pem")]
    with subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not any("eady to accept connections" in line for line in server.stdout):
                pytest.skip("this redis-server was built without TLS")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield f"rediss://localhost:{port}", folder
        finally:
            server.terminate()


@pytest.mark.services
def test_tls_with_certificates_on_both_sides(tls: tuple[str, Path]) -> None:
    url, folder = tls
    config = RedisConfig(ca=Path("certificate.pem"), certificate=Path("certificate.pem"), key=Path("key.pem"))
    store = open_online_store(url, "tls", config.below(folder))
    store.commit(0, [ViewCommit("v", 0, Progress(1), {b"k": b"1"})], [])
    assert store.read_partition("v", 0, [b"k"]) == [b"1"]
    store.close()
    with pytest.raises(StoreError, match="Redis does not answer"):
        open_online_store(url, "tls", RedisConfig(ca=folder / "certificate.pem"))
