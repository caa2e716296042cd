"""``[broker]`` of ``dovetail.toml``: how to log in to Kafka, and what its topics are made with. Embedded ignores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dovetail.platform.config.durations import parse_duration
from dovetail.platform.config.section import Section

__all__ = ["FOREVER_MS", "BrokerConfig", "Retention", "RetentionConfig"]

#: ``retention.ms`` of a topic from which nothing is removed by age.
FOREVER_MS = -1


def _parse_retention(text: object) -> int | None:
    if text == "forever":
        return FOREVER_MS
    return parse_duration(text) // 1_000


#: How long a topic keeps messages: milliseconds, :data:`FOREVER_MS`, or None for what the broker does by itself.
RetentionMs = Annotated[int | None, BeforeValidator(_parse_retention)]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps messages, and how long it must.

    ``keep_ms`` is what the topic is made with, None for the broker's own default. ``needed_ms`` is checked against what
    the topic has at start: shorter, and what is held back in it would be removed unread.
    """

    keep_ms: int | None = None
    needed_ms: int = 0


class RetentionConfig(Section):
    """How long topics keep messages, by kind of topic: a duration or "forever"; the broker's default when not said.

    Age goes by message timestamps, which are the producer's: a replay of last year's events into a topic of seven days
    is removed before it is read.
    """

    #: Events, requests and labels.
    inputs: RetentionMs = None
    #: Snapshots, and the snapshot rows that wait for a later look.
    snapshots: RetentionMs = None
    #: Samples, in both orders.
    samples: RetentionMs = None
    dead_letters: RetentionMs = None
    models: RetentionMs = None


class BrokerConfig(Section):
    """How to log in to Kafka, and what topics are made with when they are missing."""

    #: Log in with this name (SASL). The password is in an environment variable or a file, never here.
    user: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    password_env: str = ""
    password_file: Path | None = None
    #: Encrypt, and believe a broker whose certificate is signed by ``ca_file`` (the system's authorities without one).
    tls: bool = False
    ca_file: Path | None = None
    #: The worker's own certificate and key (PEM), where the broker asks for one.
    cert_file: Path | None = None
    key_file: Path | None = None
    create_topics: bool = True
    replication: int = Field(default=1, ge=1, le=32_767)
    retention: RetentionConfig = RetentionConfig()
    #: The largest message, framing included. Missing topics are made with it, others must take it.
    max_message_bytes: int = Field(default=16 << 20, ge=64 << 10, le=1 << 30)

    @model_validator(mode="after")
    def _complete(self) -> BrokerConfig:
        passwords = [name for name in ("password_env", "password_file") if getattr(self, name)]
        if self.user and len(passwords) != 1:
            raise ValueError("user: it needs one password; give one of password_env and password_file")
        if passwords and not self.user:
            raise ValueError(f"{passwords[0]}: it is the password of a user, and there is none; give user")
        files = self._tls_files()
        if files and not self.tls:
            raise ValueError(f"{files[0]}: it is used with TLS alone; set tls = true")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both, or neither")
        return self

    def _tls_files(self) -> Sequence[str]:
        return [name for name in ("ca_file", "cert_file", "key_file") if getattr(self, name) is not None]
