"""Apache Kafka, Redis and PostgreSQL for tests: single nodes on 127.0.0.1, each with its own folder and ports.

Standard library only, and nothing of Dovetail: it must run before anything is installed.
"""

from __future__ import annotations

from scripts.servers.base import Server, ServiceError
from scripts.servers.instances import DEFAULT_FOLDER, NAMES, environment, existing, remove, start, status
from scripts.servers.kafka import Kafka
from scripts.servers.postgresql import PostgreSQL
from scripts.servers.redis import Redis

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
