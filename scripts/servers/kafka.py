"""Apache Kafka, one node that is broker and controller (KRaft), from jars that Maven resolves once.

It listens four times, by what it asks of clients: nothing, a password, TLS and a password, TLS and a certificate.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from scripts.servers.base import Server, run
from scripts.servers.tls import make_certificates

__all__ = ["PASSWORD", "USER", "Kafka"]

#: Who may log in where a password is asked for, with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
USER, PASSWORD = "dovetail", "dovetail-secret"

MAX_MESSAGE_BYTES = 16 << 20
HEAP = "512m"

_SCRIPTS = Path(__file__).resolve().parent.parent
_CACHE = _SCRIPTS.parent / ".services"
# Listener: what is asked for, in Kafka's words.
_LISTENERS = {
    "kafka": "PLAINTEXT",
    "sasl": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
    "tls": "SSL",
    "control": "PLAINTEXT",
}
# Metadata request, version 4: of no topic, without making any. Header: API, version, correlation, no client name.
_METADATA = struct.pack(">hhihib", 3, 4, 1, -1, 0, 0)


class Kafka(Server):
    """A Kafka broker. Its version is DOVETAIL_KAFKA_VERSION, else the one in ``scripts/kafka/pom.xml``."""

    name = "kafka"
    fixed_ports: ClassVar = {"kafka": 19_392, "sasl": 19_393, "sasl_tls": 19_394, "tls": 19_395, "control": 19_396}
    packages: ClassVar = {"java": "openjdk-17-jre-headless", "mvn": "maven", "openssl": "openssl"}

    @property
    def url(self) -> str:
        """``kafka://127.0.0.1:PORT``."""
        return self.listener("kafka")

    def listener(self, name: str) -> str:
        """The URL of the listener ``kafka``, ``sasl``, ``sasl_tls`` or ``tls``."""
        return f"kafka://127.0.0.1:{self.ports[name]}"

    @property
    def certificates(self) -> Path:
        """The folder of ``ca.pem``, ``client.pem`` and ``client.key``."""
        return self.folder / "tls"

    @classmethod
    def missing(cls) -> list[str]:
        """``java``, ``openssl`` and, as long as the jars are not there, ``mvn``."""
        wanted = ["java", "openssl", *([] if _libraries().is_dir() else ["mvn"])]
        return [program for program in wanted if shutil.which(program) is None]

    def format(self) -> None:
        """Get the jars, make certificates and configuration, format the storage."""
        _resolve()
        make_certificates(self.certificates)
        lines = [f"{key}={value}\n" for key, value in self._settings().items()]
        (self.folder / "server.properties").write_text("".join(lines))
        # May begin with a dash, which must not look like an option.
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        users = [word for user in scram for word in ("--add-scram", user)]
        properties = self.folder / "server.properties"
        run([*_java("256m"), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", properties, *users])

    def command(self) -> Sequence[str | Path]:
        """``java kafka.Kafka server.properties``."""
        return [*_java(HEAP), "kafka.Kafka", self.folder / "server.properties"]

    def answers(self) -> bool:
        """Whether its metadata name it as a broker: it opens its ports earlier."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
                with connection.makefile("rb") as answer:
                    head = answer.read(16)
        except OSError:
            return False
        # Size, correlation, throttling, number of brokers.
        return len(head) == 16 and struct.unpack(">iiii", head)[3] == 1

    def _settings(self) -> dict[str, str]:
        ports = self.ports
        listeners = [f"{name.upper()}://127.0.0.1:{port}" for name, port in ports.items()]
        tls = self.certificates
        keys = tls / "server-keystore.pem"
        keys.write_text((tls / "server.key").read_text() + (tls / "server.pem").read_text())
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{ports['control']}",
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(listeners[:-1]),
            "inter.broker.listener.name": "KAFKA",
            "controller.listener.names": "CONTROL",
            "listener.security.protocol.map": ",".join(f"{n.upper()}:{kind}" for n, kind in _LISTENERS.items()),
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MAX_MESSAGE_BYTES),
            "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
            # One node cannot replicate.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            # Fast: few partitions to make and recover, no waiting for members that may come.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker may register again when its session is over.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            # Tests let a member die and wait for it to be missed.
            "group.min.session.timeout.ms": "1000",
            # Tests let retention remove what was not read.
            "log.retention.check.interval.ms": "500",
            "log.segment.delete.delay.ms": "0",
            "log.cleaner.backoff.ms": "500",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keys),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(tls / "ca.pem"),
            "listener.name.tls.ssl.client.auth": "required",
        }
        for name in ("sasl", "sasl_tls"):
            prefix = f"listener.name.{name}"
            settings[f"{prefix}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
            settings[f"{prefix}.plain.sasl.jaas.config"] = f'{plain} user_{USER}="{PASSWORD}";'
            for bits in (256, 512):
                module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                settings[f"{prefix}.scram-sha-{bits}.sasl.jaas.config"] = module
        return settings


def _java(heap: str) -> list[str]:
    log = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    # One compiler tier: a broker of a few minutes never earns the second back.
    return ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *log, "-cp", f"{_libraries()}/*"]


def _pom() -> Path:
    return _SCRIPTS / "kafka" / "pom.xml"


def _libraries() -> Path:
    version = os.environ.get("DOVETAIL_KAFKA_VERSION", "")
    return _CACHE / f"kafka-{hashlib.sha256(_pom().read_bytes() + version.encode()).hexdigest()[:12]}"


def _resolve() -> None:
    """Let Maven copy the jars, unless it has; whole or not at all."""
    if _libraries().is_dir():
        return
    _CACHE.mkdir(exist_ok=True)
    unfinished = _CACHE / f"unfinished-{os.getpid()}"
    version = os.environ.get("DOVETAIL_KAFKA_VERSION")
    options = [f"-DoutputDirectory={unfinished}", *([f"-Dkafka.version={version}"] if version else [])]
    run(["mvn", "--quiet", "--batch-mode", "-f", _pom(), "dependency:copy-dependencies", *options])
    try:
        unfinished.rename(_libraries())
    except OSError:  # another one was faster
        shutil.rmtree(unfinished)
