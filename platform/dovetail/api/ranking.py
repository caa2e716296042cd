"""Answers to requests: scores with their snapshot durable, or features without one, of requests or of bare keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import Response
from fastapi.responses import JSONResponse

from dovetail.api.bodies import ARROW
from dovetail.api.gateway import Gateway
from dovetail.api.json_columns import columns_of, json_value
from dovetail.api.replies import Reply
from dovetail.app.doors.door import Door
from dovetail.app.looking.online_values import values_of_keys
from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.online_features import ServedFeatures
from dovetail.joiners.contracts import TOO_OLD
from dovetail.joiners.snapshots.shape import KEYS
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import OWN_COLUMNS, seen_column, seen_columns
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll
from dovetail.platform.stores.online import OnlineStore

__all__ = ["KeyCalls", "features_answer", "rank_answer"]

_AS_OF, _EXACT = "as_of", "exact"
# Requests of fewer bytes are checked in the event loop, in less than a millisecond: handing them to a thread costs as
# much, and then one waits for the turn of both threads.
_SMALL_BYTES = 32 << 10


async def rank_answer(
    gateway: Gateway, door: Door, rows: Sequence[bytes], *, whole: bool, arrow: bool, timeout_s: float
) -> Response:
    """The scores of the requests in ``rows``; 422 where one is refused, and then nothing is asked for any of them.

    One request is answered by an object, several by ``{"answers": […]}``, in order. ``whole``: with features and
    positions seen. ``arrow``: the snapshots' rows as an Arrow stream instead of JSON.

    Raises:
        Unanswered: no agent has answered in time.
        TransportError: the broker has not taken the requests.
    """
    small = sum(map(len, rows)) < _SMALL_BYTES
    checked = gateway.check_requests(door, rows) if small else await compute(gateway.check_requests, door, rows)
    if checked.bad:
        return _all_refused(checked.bad)
    asked = [gateway.ask(message, whole=whole or arrow, timeout_s=timeout_s) for message in checked.messages.values()]
    replies = await asyncio.gather(*asked)
    refused = {row: reply.refused for row, reply in enumerate(replies) if reply.refused is not None}
    if arrow:
        if refused:
            return _all_refused(refused)
        snapshots = [reply.snapshot for reply in replies if reply.snapshot is not None]
        return Response(wire.encode(pa.concat_tables(snapshots, promote_options="permissive")), media_type=ARROW)
    if len(replies) == 1:
        return _all_refused(refused) if refused else JSONResponse(_scores(replies[0], gateway.snapshot_columns(door)))
    answers = [
        _scores(reply, gateway.snapshot_columns(door)) if reply.refused is None else {"error": reply.refused}
        for reply in replies
    ]
    return JSONResponse({"answers": answers}, status_code=422 if len(refused) == len(replies) else 200)


def features_answer(gateway: Gateway, door: Door, rows: Sequence[bytes], *, arrow: bool) -> Response:
    """The features of the requests in ``rows``; 422 where one is refused. Computes: for a thread."""
    checked = gateway.check_requests(door, rows)
    if checked.bad:
        return _all_refused(checked.bad)
    try:
        candidates, served = gateway.features(door, checked.table)
    except WireError as error:
        return JSONResponse({"error": str(error)}, status_code=422)
    if served is None:
        return _all_refused(dict.fromkeys(range(len(rows)), "no candidates"))
    if not served.answerable.all():
        old = np.unique(candidates.column(OWN_COLUMNS[1]).to_numpy()[~served.answerable]).tolist()
        return _all_refused(dict.fromkeys(old, TOO_OLD))
    if arrow:
        return Response(wire.encode(served.features), media_type=ARROW)
    return JSONResponse(_features(candidates, served))


class KeyCalls:
    """Answers calls for the values of one streaming view. ``schema`` declares their rows: the entity, and ``as_of``."""

    def __init__(self, view: StreamView, store: OnlineStore) -> None:
        self._view, self._store = view, store
        columns = zip(view.entity, view.entity_types, strict=True)
        fields = [pa.field(name, type_, nullable=False) for name, type_ in columns]
        as_of = [] if _AS_OF in view.entity else [pa.field(_AS_OF, pa.timestamp("us"))]
        self.schema = TableSchema(f"keys of {view.name}", view.file, view.line, pa.schema([*fields, *as_of]))

    def answer(self, rows: Sequence[bytes], *, arrow: bool) -> Response:
        """The values of the keys in ``rows``, in their order; 422 where one is none. Computes: for a thread.

        JSON has ``keys``, ``as_of``, ``exact`` and ``features`` by column, Arrow a row for each key. ``exact`` is
        False, and the values are NULL, where the state does not reach back to the time.

        Raises:
            StoreError: the store does not answer.
        """
        count = len(rows)
        nothing = [None] * count
        poll = Poll("keys", 0, np.arange(count), np.zeros(count, np.int64), nothing, rows, [()] * count)
        decoded = wire.decode(poll, self.schema)
        if decoded.dead:
            told = [{"row": letter.offset, "reason": letter.reason} for letter in decoded.dead]
            return JSONResponse({"error": told[0]["reason"], "rejected": told}, status_code=422)
        columns = [decoded.table.column(name).combine_chunks() for name in self._view.entity]
        asked = _AS_OF in self.schema.arrow.names
        times = decoded.table.column(_AS_OF).combine_chunks() if asked else None
        found = values_of_keys(self._view, self._store, columns, times)
        if arrow:
            return Response(wire.encode(found), media_type=ARROW)
        values = [name for name in found.column_names if name not in {*self._view.entity, _AS_OF, _EXACT}]
        said = {"keys": columns_of(found, self._view.entity), **columns_of(found, [_AS_OF, _EXACT])}
        return JSONResponse({**said, "features": columns_of(found, values)})


def _features(candidates: pa.Table, served: ServedFeatures) -> dict[str, Any]:
    given = [name for name in ("request_id", "item_id") if name in candidates.column_names]
    return {
        **columns_of(candidates, given),
        "features": columns_of(served.features, [n for n in served.features.column_names if n not in given]),
        "seen": {view: list(offsets) for view, offsets in served.seen.items()},
    }


def _scores(reply: Reply, features: Sequence[str]) -> dict[str, Any]:
    if reply.snapshot is None:
        return dict(reply.scores or {})
    snapshot = reply.snapshot
    names = snapshot.column_names
    return {
        "request_id": json_value(snapshot.column("request_id")[0].as_py()),
        "model_version": snapshot.column("model_version")[0].as_py(),
        "items": columns_of(snapshot, ["item_id"])["item_id"],
        "scores": columns_of(snapshot, ["score"])["score"],
        "features": columns_of(snapshot, [name for name in features if name in names and name not in KEYS]),
        "seen": {name.removeprefix(seen_column("")): snapshot.column(name)[0].as_py() for name in seen_columns(names)},
    }


def _all_refused(reasons: Mapping[int, str]) -> Response:
    first = next(iter(reasons.values()))
    told = [{"row": row, "reason": reason} for row, reason in reasons.items()]
    return JSONResponse({"error": first, "rejected": told}, status_code=422)
