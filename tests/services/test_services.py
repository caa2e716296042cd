"""The handles do what their names say: the fault tests stand on them."""

from __future__ import annotations

import asyncio
import socket
import uuid
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from scripts.servers import Kafka, PostgreSQL, Redis, ServiceError, environment, existing, remove, start, status

pytestmark = pytest.mark.services


@pytest.fixture
def topic() -> str:
    """A topic of this run: the broker may be one that is kept."""
    return f"services-{uuid.uuid4().hex[:8]}"


def test_an_instance_is_found_again_by_its_folder_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    assert status(folder) == {"kafka": "absent", "redis": "absent", "postgresql": "absent"}
    (started,) = start(folder, ["redis"])
    (found,) = existing(folder)
    assert (found.pid, found.url) == (started.pid, started.url)
    assert environment(folder) == {"DOVETAIL_TEST_REDIS": started.url, "DOVETAIL_TEST_SERVICES": str(folder)}
    assert start(folder, ["redis"])[0].pid == started.pid  # it runs already
    assert status(folder)["redis"] == "ready"
    found.pause()
    assert status(folder)["redis"] == "running"
    found.resume()
    found.stop()
    assert status(folder)["redis"] == "stopped"
    remove(folder)
    assert not folder.exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"redis cannot start: its port {port} \(redis\) is in use by another"):
            start(tmp_path / "instance", ["redis"], {"redis": port})
    assert not (tmp_path / "instance").exists()


def test_a_missing_program_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match=r"redis needs redis-server, not found here; .*apt-get install redis-server"):
        start(tmp_path / "instance", ["redis"])


def test_redis_comes_back_with_its_last_save(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("kept", 1)
        redis_server.save()
        client.set("lost", 1)
        redis_server.kill()
        assert redis_server.pid is None
        redis_server.start()
        assert client.mget("kept", "lost") == [b"1", None]
        redis_server.flush()
        assert client.get("kept") is None
    redis_server.hold(50)
    assert redis_server.answers()
    with pytest.raises(ServiceError, match=r"redis answers '-ERR timeout is not an integer.* to CLIENT PAUSE"):
        redis_server._must("CLIENT", "PAUSE", "x")


def test_postgresql_comes_back_with_what_was_committed(postgresql_server: PostgreSQL) -> None:
    engine = sa.create_engine(postgresql_server.url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE kept AS SELECT 1 AS n"))
    with engine.connect() as open_connection:
        open_connection.execute(sa.text("SELECT 1"))
        postgresql_server.kill()
        with pytest.raises(sa.exc.OperationalError):
            open_connection.execute(sa.text("SELECT 1"))
    postgresql_server.start()
    engine.dispose()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT n FROM kept")).scalar() == 1
        connection.execute(sa.text("DROP TABLE kept"))
    engine.dispose()


def test_kafka_comes_back_with_its_messages(kafka_server: Kafka, topic: str) -> None:
    address = f"127.0.0.1:{kafka_server.port}"

    async def write() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
            await producer.send_and_wait(topic, b"before")

    async def read() -> bytes:
        async with AIOKafkaConsumer(bootstrap_servers=address) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            consumer.seek(TopicPartition(topic, 0), 0)
            return bytes((await consumer.getone()).value)

    asyncio.run(write())
    kafka_server.kill()
    kafka_server.start()
    assert asyncio.run(asyncio.wait_for(read(), 60)) == b"before"
