"""The Faust app of a project: its broker, its topics, its login."""

from __future__ import annotations

from typing import Any

from dovetail.app.storage import resolved
from dovetail.platform.config.load import Config
from dovetail.platform.transports.faust_app import App, create_app
from dovetail.platform.transports.kafka.security import credentials

__all__ = ["broker_app"]


def broker_app(config: Config, group: str, **settings: Any) -> App:
    """An app without stages for the broker and topics of ``config``; ``settings`` are further ones of Faust's.

    Raises:
        ConfigError: the broker's URL is none, or a password or certificate is missing.
    """
    return create_app(
        group,
        resolved(config, config.storage.url("broker")),
        topics=config.topics(),
        retention=config.retention(),
        max_message_bytes=config.broker.max_message_bytes,
        broker_credentials=credentials(config.broker, config.path),
        topic_replication_factor=config.broker.replication,
        topic_allow_declare=config.broker.create_topics,
        **settings,
    )
