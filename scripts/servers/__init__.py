"""Apache Kafka, Redis and PostgreSQL for tests: single nodes on 127.0.0.1, each with its own folder and ports.

Standard library only, and nothing of Dovetail: it must run before anything is installed.
"""

from __future__ import annotations

from servers.base import Server, ServiceError
from servers.instances import DEFAULT_FOLDER, NAMES, environment, existing, remove, start, status
from servers.kafka import Kafka
from servers.postgresql import PostgreSQL
from servers.redis import Redis

__all__ = [
    "DEFAULT_FOLDER",
    "NAMES",
    "Kafka",
    "PostgreSQL",
    "Redis",
    "Server",
    "ServiceError",
    "environment",
    "existing",
    "remove",
    "start",
    "status",
]
