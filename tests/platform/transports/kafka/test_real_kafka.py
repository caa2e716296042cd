"""What only a real broker shows: topics with settings, logging in, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from dovetail.platform.config.broker import FOREVER_MS, BrokerConfig, Retention
from dovetail.platform.errors import TransportError
from dovetail.platform.rows import wire
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Work
from dovetail.platform.transports.kafka.security import credentials
from scripts.servers import Kafka
from tests.platform.transports.limited import run
from tests.platform.transports.members import SharedStore, Summing

pytestmark = pytest.mark.services


class Broker(Protocol):
    url: str
    address: str
    settings: Mapping[str, Any]

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


async def declare(url: str, topics: Mapping[str, int], **settings: Any) -> None:
    app = create_app("test", url, topics=topics, **settings)
    await app.transport.declare(topics)  # type: ignore[attr-defined]


def settings_of(address: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": address})
    answer = admin.describe_configs([resource])
    return {name: entry.value for name, entry in answer[resource].result().items()}


def make(address: str, topic: str, **settings: str) -> None:
    config = {name.replace("_", "."): value for name, value in settings.items()}
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(topic, 2, 1, config=config)])[topic].result()


def test_missing_topics_are_made_as_declared(real_kafka: Broker, topic: str) -> None:
    day, forever, default = f"{topic}-day", f"{topic}-forever", f"{topic}-default"
    retention = {day: Retention(86_400_000), forever: Retention(FOREVER_MS, needed_ms=10**12)}
    topics = {day: 3, forever: 1, default: 2}
    run(declare(real_kafka.url, topics, retention=retention, max_message_bytes=2_000_000))
    found = AdminClient({"bootstrap.servers": real_kafka.address}).list_topics(timeout=10).topics
    assert {name: len(found[name].partitions) for name in topics} == topics
    for name, keeps in ((day, "86400000"), (forever, "-1")):
        settings = settings_of(real_kafka.address, name)
        assert settings["retention.ms"] == keeps
        assert settings["cleanup.policy"] == "delete"
        assert settings["max.message.bytes"] == "2000000"
    run(declare(real_kafka.url, topics, retention=retention, max_message_bytes=2_000_000))  # they fit


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({}, "has 2 partitions, 4 declared"),
        ({"cleanup_policy": "compact"}, "is compacted: rows would be removed before they are read"),
        ({"retention_ms": "999"}, "keeps messages for 999 ms, rows wait in it for 1000 ms: lengthen its retention"),
        ({"max_message_bytes": "1000"}, "takes messages of 1000 bytes, broker.max_message_bytes is 16777216"),
    ],
    ids=["partitions", "compacted", "retention", "size"],
)
def test_topics_that_do_not_fit_are_refused(
    real_kafka: Broker, topic: str, there: dict[str, str], message: str
) -> None:
    make(real_kafka.address, topic, **there)
    partitions = 2 if there else 4
    with pytest.raises(TransportError, match=f"topic '{topic}' at .* {message}"):
        run(declare(real_kafka.url, {topic: partitions}, retention={topic: Retention(needed_ms=1_000)}))


def test_more_replicas_than_brokers_is_an_error(real_kafka: Broker, topic: str) -> None:
    with pytest.raises(TransportError, match=r"cannot declare topics at .*InvalidReplicationFactor"):
        run(declare(real_kafka.url, {topic: 1}, topic_replication_factor=3))


def test_what_is_larger_than_a_message_is_split_and_read_whole(real_kafka: Broker, topic: str) -> None:
    rows = 40_000
    table = pa.table({"noise": np.random.default_rng(1).random(rows), "_source_row": pa.array(range(rows), pa.int32())})
    table = table.append_column("_source_partition", pa.array([0] * rows, pa.int32()))
    table = table.append_column("_source_offset", pa.array([7] * rows, pa.int64()))
    message = Outgoing(topic, wire.encode(table), partition=0)
    limit = 64 << 10
    assert len(message.value) > 4 * limit

    async def main() -> None:
        seen: list[pa.Table] = []

        class Reading(Summing):
            async def handle(self, poll: Any) -> Any:
                seen.append(wire.decode_arrow(poll))
                assert max(len(value) for value in poll.values) <= limit
                yield Work(done=poll.last + 1)

        stage = Reading(topic, SharedStore())
        app = create_app(topic, real_kafka.url, topics={topic: 1}, max_message_bytes=limit, **real_kafka.settings)
        runtime = Runtime(app, [stage])
        await runtime.start()
        with pytest.raises(TransportError, match="MessageSizeTooLarge"):
            await app.producer.publish([message])  # type: ignore[attr-defined]
        await runtime.publish([message])
        await runtime.wait_for(lambda: sum(part.num_rows for part in seen) == rows)
        await runtime.stop()
        assert pa.concat_tables(seen).select(table.column_names).combine_chunks() == table.combine_chunks()

    run(main())


def test_the_producer_is_idempotent(real_kafka: Broker, topic: str) -> None:
    async def main() -> None:
        app = create_app("test", real_kafka.url, topics=real_kafka.create(topic))
        producer: Any = app.producer
        await producer.start()
        await asyncio.gather(*(producer.publish([Outgoing(topic, b"x", partition=0)] * 100) for _ in range(5)))
        transactions = producer._producer._txn_manager
        assert transactions.producer_id >= 0
        # The broker numbers what it gets from this producer, and takes a number once.
        assert list(transactions._sequence_numbers.values()) == [500]
        await producer.stop()

    run(main())


LOGINS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("sasl", {"user": "dovetail", "mechanism": "PLAIN", "password_env": "SECRET"}),
    "scram-256": ("sasl", {"user": "dovetail", "mechanism": "SCRAM-SHA-256", "password_env": "SECRET"}),
    "scram-512": ("sasl", {"user": "dovetail", "password_file": "secret"}),
    "scram-tls": ("sasl_tls", {"user": "dovetail", "password_file": "secret", "tls": True, "ca_file": "ca.pem"}),
    "certificate": (
        "tls",
        {"tls": True, "ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"},
    ),
}


def login_of(server: Kafka, folder: Path, settings: Mapping[str, Any]) -> Any:
    (folder / "secret").write_text("dovetail-secret\n")

    def resolve(name: Path) -> Path:
        return folder / name if (folder / name).exists() else server.certificates / name

    return credentials(BrokerConfig.model_validate(settings), resolve)


@pytest.mark.parametrize("login", LOGINS)
def test_logged_in_it_declares_publishes_and_reads(
    kafka_server: Kafka, topic: str, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "dovetail-secret")
    listener, settings = LOGINS[login]
    given = login_of(kafka_server, tmp_path, settings)

    async def main() -> None:
        store = SharedStore()
        app = create_app(topic, kafka_server.listener(listener), topics={topic: 2}, broker_credentials=given)
        runtime = Runtime(app, [Summing(topic, store)])
        await runtime.start()
        await runtime.publish([Outgoing(topic, b"%d" % n, partition=n % 2) for n in range(10)])
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 10)
        await runtime.stop()
        assert store.count() == 10

    run(main())


@pytest.mark.parametrize(
    ("login", "change"),
    [
        ("scram-512", {"password_file": "wrong"}),
        ("scram-tls", {"ca_file": None}),
        ("certificate", {"cert_file": None, "key_file": None}),
    ],
    ids=["password", "authority", "no certificate"],
)
def test_a_broker_that_refuses_the_login_ends_the_start(
    kafka_server: Kafka, topic: str, login: str, change: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("guessed")
    listener, settings = LOGINS[login]
    given = login_of(kafka_server, tmp_path, {**settings, **change})
    with pytest.raises(TransportError, match=r"cannot declare topics at \['127.0.0.1:\d+'\]"):
        run(declare(kafka_server.listener(listener), {topic: 1}, broker_credentials=given))
