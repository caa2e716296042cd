"""Credentials for Kafka from ``[broker]``: passwords and certificates are read here, before anything is started."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faust import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as stock

from dovetail.platform.config.broker import BrokerConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.masking import variable_name

__all__ = ["client_settings", "credentials"]


def credentials(config: BrokerConfig, path: Callable[[Path], Path] = Path) -> SASLCredentials | SSLCredentials | None:
    """Faust's credentials; None for a broker that asks for none. ``path`` resolves relative files.

    Raises ConfigError for a password or file that is missing, empty or not what it should be.
    """
    context = _context(config, path) if config.tls else None
    if config.user:
        password = _password(config, path)
        return SASLCredentials(username=config.user, password=password, mechanism=config.mechanism, ssl_context=context)
    return SSLCredentials(context) if context is not None else None


def client_settings(transport: Any) -> dict[str, Any]:
    """The servers and credentials of a transport of Faust's, as clients of aiokafka take them."""
    conf = transport.app.conf
    auth = stock.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context)
    return {"bootstrap_servers": stock.server_list(transport.url, transport.default_port), **auth}


def _password(config: BrokerConfig, path: Callable[[Path], Path]) -> str:
    # Neither is quoted: somebody may have written the password itself there.
    if config.password_file is None:
        password = os.environ.get(config.password_env, "")
        place = f"password_env: the environment variable {variable_name(config.password_env)}"
    else:
        place = "password_file: the file that it names"
        try:
            password = path(config.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"broker.{place} cannot be read: {why}") from error
    if not password:
        raise ConfigError(f"broker.{place} is empty; put the password of {config.user!r} there")
    return password


def _context(config: BrokerConfig, path: Callable[[Path], Path]) -> ssl.SSLContext:
    authorities = None if config.ca_file is None else path(config.ca_file)
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"broker.ca_file: {authorities} is not a file of PEM certificates: {error}") from error
    if config.cert_file is not None and config.key_file is not None:
        certificate, key = path(config.cert_file), path(config.key_file)
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise ConfigError(
                f"broker.cert_file and key_file: {certificate} and {key} are not a PEM certificate and its key: {error}"
            ) from error
    return context
