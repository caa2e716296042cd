"""Brokers for the conformance suite: the embedded log, librdkafka's mock cluster speaking Kafka over TCP, and Kafka."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog

#: The mock cluster gives this number to every topic it creates.
PARTITIONS = 4


class Broker(ABC):
    """A broker seen from outside the app."""

    url: str
    #: The largest message it takes; the mock cluster keeps five megabytes of a partition.
    max_message: int
    #: Faust settings for it.
    settings: Mapping[str, Any]

    @abstractmethod
    def create(self, *topics: str) -> Mapping[str, int]:
        """Make sure the topics exist; partitions by topic, as ``create_app`` takes them."""

    @abstractmethod
    def produce(self, messages: Sequence[Outgoing]) -> None:
        """What a foreign producer writes: values may be None, partitions are given."""


class EmbeddedBroker(Broker):
    max_message = 10_000_000
    settings: Mapping[str, Any] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"embedded://{path}"

    def create(self, *topics: str) -> Mapping[str, int]:
        with EmbeddedLog.open(self.path) as log:
            for topic in topics:
                log.create_topic(topic, PARTITIONS)
        return dict.fromkeys(topics, PARTITIONS)

    def produce(self, messages: Sequence[Outgoing]) -> None:
        with EmbeddedLog.open(self.path) as log:
            log.append(messages)


class ConfluentBroker(Broker):
    """One that a producer of librdkafka writes to: what a foreign program sends."""

    _producer: Producer

    def produce(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._producer.produce(
                message.topic,
                message.value,
                message.key,
                -1 if message.partition is None else message.partition,
                timestamp=message.timestamp_ms or 0,
                headers=list(message.headers),
            )
        assert self._producer.flush(10) == 0


class MockKafka(ConfluentBroker):
    max_message = 4_000_000
    # After a member has left, the mock cluster lets the next one wait for a session time-out; a first one, 3 seconds.
    settings: Mapping[str, Any] = {"broker_session_timeout": 4.0, "broker_heartbeat_interval": 1.0}

    def __init__(self) -> None:
        self._producer = Producer(
            {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0, "message.max.bytes": 20_000_000}
        )
        servers = self._producer.list_topics(timeout=10).brokers.values()
        self.url = "kafka://" + ";".join(f"{server.host}:{server.port}" for server in servers)

    def create(self, *topics: str) -> Mapping[str, int]:
        # It does not know CreateTopics, but creates what it is asked about.
        for topic in topics:
            self._producer.list_topics(topic, timeout=10)
        return dict.fromkeys(topics, PARTITIONS)


class RealKafka(ConfluentBroker):
    max_message = 15_000_000
    settings: Mapping[str, Any] = {"broker_session_timeout": 6.0, "broker_heartbeat_interval": 0.5}

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = url.removeprefix("kafka://").replace(";", ",")
        self._producer = Producer({"bootstrap.servers": self.address, "message.max.bytes": 16_000_000})
        self._admin = AdminClient({"bootstrap.servers": self.address})

    def create(self, *topics: str) -> Mapping[str, int]:
        missing = set(topics) - set(self._admin.list_topics(timeout=10).topics)
        limit = {"max.message.bytes": str(16 << 20)}
        wanted = [NewTopic(topic, PARTITIONS, 1, config=limit) for topic in missing]
        for made in self._admin.create_topics(wanted).values() if wanted else ():
            made.result()
        return dict.fromkeys(topics, PARTITIONS)


@pytest.fixture(scope="session")
def mock_kafka() -> MockKafka:
    return MockKafka()


@pytest.fixture(scope="session")
def real_kafka(kafka_url: str) -> RealKafka:
    return RealKafka(kafka_url)


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("mock_kafka", marks=pytest.mark.slow),
        pytest.param("real_kafka", marks=pytest.mark.services),
    ]
)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    if request.param == "embedded":
        return EmbeddedBroker(tmp_path / "Log.db")
    kafka: Broker = request.getfixturevalue(request.param)
    return kafka


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic name of this test and run: one cluster serves all of them, and a real one may be kept."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return f"{name}-{uuid.uuid4().hex[:8]}"
