"""The Faust app that Dovetail's agents run in: Faust's own, with our drivers, no tables and no waiting at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import faust
from faust.tables.manager import TableManager
from faust.types import TP
from mode.supervisors import CrashingSupervisor
from yarl import URL

from dovetail.platform.config.broker import Retention
from dovetail.platform.errors import ConfigError
from dovetail.platform.transports.coalescing import MAX_UNHANDLED_POLLS, Positions
from dovetail.platform.transports.embedded import driver as embedded
from dovetail.platform.transports.kafka import driver as kafka

__all__ = ["App", "Resume", "create_app"]

#: Stored positions of a topic: the next offset to read, by partition.
Resume = Callable[[str], Mapping[int, int]]

_DRIVERS = {"embedded": embedded.Transport, "kafka": kafka.Transport}


class Attached(Protocol):
    """Callbacks of an app to the runtime attached to it."""

    async def before_start(self) -> None:
        """Before the consumer starts. An exception ends the start."""

    async def before_stop(self) -> None:
        """While everything still runs: the app is about to stop."""

    async def on_revoked(self) -> None:
        """A rebalance begins; the group waits until this returns."""

    async def on_reassigned(self, assigned: set[TP]) -> None:
        """A rebalance is over while the app stops: these partitions are its own. None is read any more."""

    async def after_stop(self) -> None:
        """After everything has stopped, also when the start has failed."""

    def on_crash(self, reason: BaseException) -> None:
        """Some service of the app has crashed; the app is coming down. From any thread."""


class NoTables(TableManager):
    """Dovetail keeps state in stores, not in Faust tables: nothing to wait for, nothing to recover."""

    async def on_start(self) -> None:
        """Faust sleeps a second here, in case tables are still being defined."""
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app whose topics are read by Dovetail's drivers. Made by :func:`create_app`."""

    #: Topics to declare before anything starts: partitions by name.
    declared: Mapping[str, int]
    #: How long topics are kept, by name; the broker's default for the others.
    retention: Mapping[str, Retention]
    #: The largest message that may be published, framing included.
    max_message_bytes: int
    #: Where to start reading (see ``coalescing``); None leaves it to the broker's committed offsets.
    positions: Positions | None = None
    #: Go on, with a warning, when retention has removed messages that were not read.
    allow_gaps: bool = False
    #: Polls of one partition handed out and not yet handled.
    max_unhandled_polls: int = MAX_UNHANDLED_POLLS
    attached: Attached | None = None
    #: Topics that every worker of the group reads all of, and topics that one worker reads all of.
    shared: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def _new_transport(self) -> Any:
        # By our own table: in Faust's, kafka:// is the stock driver, and changing that would change it for every other
        # Faust app of the same environment.
        return _DRIVERS[self.conf.broker_consumer[0].scheme](self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return self.transport

    def _create_directories(self) -> None:
        """Nothing is kept in Faust's data directory, so none is made."""

    async def on_start(self) -> None:
        """Declare the topics and let the stages prepare, before the consumer asks for positions."""
        await super().on_start()
        if not self.client_only:
            await self.transport.declare(self.declared)  # type: ignore[attr-defined]  # ours, by _new_transport
            if self.attached is not None:
                await self.attached.before_start()

    async def on_stop(self) -> None:
        """Hand out nothing more and let the stages finish what they have in hand, while broker and group are there."""
        if self.attached is not None and not self.client_only:
            consumer = self._consumer
            if consumer is not None:
                consumer.stop_flow()
            await self.attached.before_stop()
        await super().on_stop()

    async def on_shutdown(self) -> None:
        """Let the stages go, after the agents have stopped."""
        await super().on_shutdown()
        if self.attached is not None:
            await self.attached.after_stop()

    def _crash(self, reason: BaseException) -> None:
        # Whichever service crashes, in whichever thread, mode comes through here on its way to the root.
        super()._crash(reason)
        if self.attached is not None:
            self.attached.on_crash(reason)


def create_app(
    app_id: str,
    broker_url: str,
    resume: Resume | None = None,
    topics: Mapping[str, int] | None = None,
    *,
    web: bool = False,
    max_unhandled_polls: int = MAX_UNHANDLED_POLLS,
    allow_gaps: bool = False,
    max_message_bytes: int = 16 << 20,
    retention: Mapping[str, Retention] | None = None,
    **settings: Any,
) -> App:
    """A Faust app set up for stages.

    ``broker_url`` is ``kafka://HOST:PORT`` (several separated by ``;``) or ``embedded://PATH``, a relative path being
    taken from the working directory. ``app_id`` is also the consumer group. ``topics`` gives the number of partitions
    of every topic that is read or written, ``retention`` how long they are kept. ``resume`` gives stored positions by
    topic; the runtime puts its own in its place. ``settings`` are further Faust settings (credentials, TLS, time-outs)
    and override what is set here.

    Raises ConfigError for a URL of another scheme or without a path.
    """
    defaults: dict[str, Any] = {
        "broker": _broker(broker_url),
        "store": "memory://",
        "web_enabled": web,
        "topic_disable_leader": True,
        "topic_replication_factor": 1,
        "table_standby_replicas": 0,
        "reply_create_topic": False,
        # An exception in an agent takes the worker down; restarting the agent would skip the poll.
        "agent_supervisor": CrashingSupervisor,
        "TableManager": NoTables,
        # The drivers bound what is handed out. Were this queue to fill, Faust's one conductor would stop all topics.
        "stream_buffer_maxsize": 1 << 20,
        # What is in flight at the end is read again: waiting for it would wait for a label window.
        "stream_wait_empty": False,
        "broker_commit_interval": 1.0,
        "broker_max_poll_records": 10_000,
        # Not polling is no sign of death here: a partition is held back for as long as its stage holds it, and the
        # driver counts as polling meanwhile.
        "broker_max_poll_interval": 86_400.0,
        "consumer_max_fetch_size": 4 << 20,
        # Positions are always sought, so a reset can only mean that messages were removed unread.
        "consumer_auto_offset_reset": "earliest" if allow_gaps else "none",
        "producer_acks": -1,
        "producer_linger": 0.0,
        "producer_max_batch_size": min(1 << 20, max_message_bytes),
        "producer_max_request_size": max_message_bytes,
        "producer_request_timeout": 60.0,
    }
    app = App(app_id, **{**defaults, **settings})
    app.declared = dict(topics or {})
    app.retention = dict(retention or {})
    app.max_message_bytes = max_message_bytes
    app.allow_gaps = allow_gaps
    app.max_unhandled_polls = max_unhandled_polls
    if resume is not None:
        app.positions = _positions_from(resume)
    return app


def _broker(url: str) -> str | URL:
    scheme, _, rest = url.partition("://")
    if scheme not in _DRIVERS or not rest:
        raise ConfigError(f"storage.broker: {url!r} is no broker; write kafka://HOST:PORT or embedded://PATH")
    if scheme == "embedded":
        return URL.build(scheme="embedded", path=str(Path(rest).absolute()))
    return url


def _positions_from(resume: Resume) -> Positions:
    async def positions(tps: set[TP]) -> Mapping[TP, int]:
        stored = {topic: resume(topic) for topic in {tp.topic for tp in tps}}
        return {tp: stored[tp.topic][tp.partition] for tp in tps if tp.partition in stored[tp.topic]}

    return positions
