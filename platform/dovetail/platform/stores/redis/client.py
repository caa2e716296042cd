"""Clients for one Redis or a Redis Cluster, and what becomes of their errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.masking import masked

__all__ = ["RedisClient"]

_FAILURES = (redis.RedisError, exceptions.RedisClusterException)
# What a cluster says while one of its nodes is away or its slots move, besides what a single Redis says.
_FAILING_OVER = (
    redis.ConnectionError,
    redis.TimeoutError,
    exceptions.RedisClusterException,
    exceptions.AskError,  # MOVED, too
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
)
_BACKOFF_CAP_S, _BACKOFF_BASE_S = 2.0, 0.1
_SEEDS = re.compile(r"(rediss?://(?:[^/?]*@)?)([^/?]*)(.*)")

T = TypeVar("T")


class RedisClient:
    """A client of redis-py that reconnects and repeats failed calls, and the name of what it talks to.

    A call that failed may have been carried out: only what may be done twice goes through it.
    """

    def __init__(self, url: str, config: RedisConfig, *, decode: bool) -> None:
        """Connect, once and without patience. ``decode``: replies are text, else bytes.

        The URL of a cluster may name several of its nodes, separated by commas: one that answers is enough.

        Raises:
            ConfigError: the URL is malformed, a password is not where it should be, a certificate cannot be read.
            StoreError: nobody answers there, or not to this user; or it evicts keys when its memory is full. Where this
                user may not ask (INFO), that is taken on trust.
        """
        self.where = masked(url)
        self.cluster = config.cluster or "+cluster://" in url
        options: dict[str, Any] = {
            "decode_responses": decode,
            "socket_connect_timeout": config.connect_timeout / 1e6,
            "socket_timeout": config.timeout / 1e6,
            "retry": Retry(NoBackoff(), 0),
        }
        if config.username:
            options["username"] = config.username
        if (password := config.password()) is not None:
            options["password"] = password
        plain = url.replace("+cluster://", "://")
        if plain.startswith("rediss://"):
            files = {"ssl_ca_certs": config.ca, "ssl_certfile": config.certificate, "ssl_keyfile": config.key}
            options |= {name: _readable(path) for name, path in files.items() if path is not None}
        number = urlsplit(plain).path.strip("/")
        if number and not number.isdigit() and not plain.startswith("unix:"):
            # redis-py would take the first database instead.
            raise ConfigError(f"store URL {self.where!r}: its path is no number of a database; try redis://HOST:6379/0")
        try:
            self.redis: Any = _cluster_of(plain, options) if self.cluster else redis.Redis.from_url(plain, **options)
            self.redis.ping()
            memory = self._memory()
        except ValueError as error:
            raise ConfigError(f"store URL {self.where!r} cannot be used: {error}; try redis://HOST:6379/0") from error
        except redis.AuthenticationError as error:
            raise StoreError(
                f"{self.where}: Redis refuses this user: {error}; see username and password_env in [redis]"
            ) from error
        except _FAILURES as error:
            raise StoreError(
                f"{self.where}: Redis does not answer: {error}; is it running, and is the URL right?"
            ) from error
        for node in memory:
            if node.get("maxmemory") and node.get("maxmemory_policy") != "noeviction":
                self.redis.close()
                raise StoreError(
                    f"{self.where}: this Redis evicts keys when its {node['maxmemory']} bytes are full "
                    f"(maxmemory-policy {node.get('maxmemory_policy')}): state would be gone while its positions stay; "
                    "give Dovetail a Redis of its own with maxmemory-policy noeviction"
                )
        patience = EqualJitterBackoff(_BACKOFF_CAP_S, _BACKOFF_BASE_S)
        # A cluster's client repeats without a pause, and is through before a replica has been promoted: it need not.
        self._patience = Retry(patience, config.retries, _FAILING_OVER) if self.cluster else Retry(NoBackoff(), 0)
        if not self.cluster:
            self.redis.set_retry(Retry(patience, config.retries))

    def _memory(self) -> list[dict[str, Any]]:
        """Each node's answer about its memory; nothing where this user may not ask."""
        try:
            if not self.cluster:
                return [self.redis.info("memory")]
            return list(self.redis.info("memory", target_nodes=redis.RedisCluster.PRIMARIES).values())
        except redis.ResponseError:
            return []

    def call(self, do: Callable[[Any], T]) -> T:
        """Call ``do`` with the client and return its result. It may be called several times; its failure is final.

        Raises:
            StoreError: Redis did not answer in all the repetitions, or refused.
        """
        try:
            done: T = self._patience.call_with_retry(lambda: do(self.redis), lambda _: None)
        except _FAILURES as error:
            raise StoreError(
                f"{self.where}: Redis failed: {type(error).__name__}: {error}; a worker ends by this, and goes on "
                "from what is stored once Redis can be reached"
            ) from error
        return done

    def ask(self, commands: Callable[[Any], None], *, together: bool) -> list[Any]:
        """The answers to what ``commands`` puts into a pipeline; ``together``: all of one moment, and of one slot.

        Raises:
            StoreError: as :meth:`call`.
        """

        def do(client: Any) -> list[Any]:
            with client.pipeline(transaction=together) as pipeline:
                commands(pipeline)
                answers: list[Any] = pipeline.execute()
                return answers

        return self.call(do)

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()


def _cluster_of(url: str, options: dict[str, Any]) -> Any:
    found = _SEEDS.fullmatch(url)
    before, seeds, after = found.groups() if found else ("", url, "")
    first, *others = seeds.split(",")
    nodes = [(host.strip("[]"), int(port)) for host, _, port in (seed.rpartition(":") for seed in others)]
    # Ask who has which slot after each error: what failed may have been the node that had it.
    return redis.RedisCluster.from_url(
        f"{before}{first}{after}",
        startup_nodes=[ClusterNode(host, port) for host, port in nodes],  # type: ignore[no-untyped-call]
        reinitialize_steps=1,
        **options,
    )


def _readable(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"[redis]: {path}: no such file; name a PEM file for each of ca, certificate and key")
    return str(path)
