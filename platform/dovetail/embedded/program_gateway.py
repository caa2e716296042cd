"""Sends and asks for a program that has no event loop: the gateway of the HTTP API, without HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa

from dovetail.api.gateway import Accepted, Gateway
from dovetail.app.doors.door import Door
from dovetail.embedded.given_rows import as_messages, refuse
from dovetail.features.language.source import nearest
from dovetail.joiners.contracts import TOO_OLD
from dovetail.joiners.snapshots.shape import KEYS
from dovetail.platform.errors import ConfigError, WireError
from dovetail.platform.process.loop_thread import LoopThread

__all__ = ["ProgramGateway"]

_TIMEOUT_S = 60.0


class ProgramGateway:
    """Rows in, rankings and features out, through a gateway whose event loop runs in another thread.

    Rows are a ``pyarrow.Table``, whatever speaks the Arrow PyCapsule interface (pandas, Polars, DuckDB), or a list of
    dictionaries; answers are Arrow tables, which these take. May be used from any thread.
    """

    def __init__(self, loop: LoopThread, gateway: Gateway) -> None:
        self._loop, self._gateway = loop, gateway

    def send(self, topic: str, rows: Any, *, idempotency_key: str | None = None) -> int:
        """Send rows of a stream or of a kind of labels, all or none; their number, when the log has them durably.

        ``idempotency_key``: with the key of a call of before, its rows are the same events, row by row, where the
        stream or kind declares ``unique_within``.

        Raises:
            ConfigError: nothing is sent to ``topic``, or it does not look at keys.
            WireError: some rows are not as declared: the first of them, and why.
        """
        door = self._gateway.doors.get(topic)
        if door is None:
            raise ConfigError(f"no rows are sent to {topic!r}; {nearest(topic, sorted(self._gateway.doors))}")
        messages = as_messages(rows)
        accepted: Accepted = (
            self._loop.run(self._gateway.send(door, messages, atomic=True, call=idempotency_key))
            if messages
            else Accepted({}, {})
        )
        refuse(accepted.bad, topic)
        return len(accepted.positions)

    def rank(self, requests: Any, scene: str = "") -> pa.Table:
        """Rank the candidates of ``requests`` of a scene: their snapshots as recorded, a row each, when durable.

        The columns are the request's keys, the features as served, ``score`` and ``model_version``; what else a
        snapshot keeps begins with an underscore.

        Raises:
            WireError: some requests are refused: the first of them, and why. The others are recorded.
        """
        door = self._door(scene)
        checked = self._gateway.check(door, as_messages(requests))
        refuse(checked.bad, door.name)
        if not checked.messages:
            raise WireError("there are no requests to rank")

        async def ask() -> list[Any]:
            asked = (self._gateway.ask(one, whole=True, timeout_s=_TIMEOUT_S) for one in checked.messages.values())
            return await asyncio.gather(*asked)

        replies = self._loop.run(ask())
        refuse({row: reply.refused for row, reply in enumerate(replies) if reply.refused is not None}, door.name)
        return pa.concat_tables([reply.snapshot for reply in replies], promote_options="permissive").combine_chunks()

    def features(self, requests: Any, scene: str = "") -> pa.Table:
        """The features of the candidates of ``requests`` of a scene now, one row per candidate. Records nothing.

        Raises:
            WireError: some requests are not as declared, are too old, or have no value for an expression.
        """
        door = self._door(scene)
        checked = self._gateway.check(door, as_messages(requests))
        refuse(checked.bad, door.name)
        candidates, served = self._gateway.features(door, checked.table)
        if served is None:
            raise WireError("the requests have no candidates")
        if not served.answerable.all():
            raise WireError(TOO_OLD)
        keys = {name: candidates.column(name) for name in KEYS}
        return pa.table(keys | {name: served.features.column(name) for name in served.features.column_names})

    def _door(self, scene: str) -> Door:
        """The door of the requests of a scene.

        Raises:
            ConfigError: there is no such scene.
        """
        config = self._gateway.project.config
        return self._gateway.doors[config.of_scene(scene).in_scene("requests")]
