"""The routes of the HTTP API, and their OpenAPI page, made of the project's own tables."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from dovetail.api.bodies import ARROW, JSON, NDJSON, BadBody, rows_of_body, wants_arrow
from dovetail.api.call_metrics import CallMetrics
from dovetail.api.describing import definitions_of, freshness_of, models_of
from dovetail.api.gateway import Accepted, Gateway, Unanswered
from dovetail.api.idempotence import IDEMPOTENCY_KEY, KEY_PATTERN, BadKey, KeptAnswers, call_of
from dovetail.api.limits import Busy, Places, read_body, too_large
from dovetail.api.ranking import KeyCalls, features_answer, rank_answer
from dovetail.api.schemas import schema_of
from dovetail.api.tokens import Scope, Tokens, bearer_of
from dovetail.app.doors.door import Door
from dovetail.app.tracing.trace_headers import TraceHeaders
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.errors import StoreError, TransportError
from dovetail.platform.masking import masked
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.runtime.computing import compute

__all__ = ["Health", "Surroundings", "application"]

#: Whether all is well, and what says so or why not.
Health = Callable[[], tuple[bool, Mapping[str, Any]]]
_Handler = Callable[[Request], Awaitable[Response]]
_US = 1_000_000
_SOON = {"Retry-After": "1"}
_DIGITS = 19
#: A body above this is always read in a thread.
_LONG_BODY = 64 << 10
#: A call of a scene, or of a view.
_SCENE_CALL = re.compile(r"/v1/(rank|features)/([^/]+)")
_FLAGS = frozenset({"atomic", "features"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The process around the API: its health, and its metrics."""

    alive: Health
    ready: Health
    registry: CollectorRegistry


class _Refusal(Exception):
    """An answer that is no success; its JSON is ``{"error": reason}``."""

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


def application(
    gateway: Gateway, config: ApiConfig, tokens: Tokens, around: Surroundings, closing: asyncio.Event | None = None
) -> FastAPI:
    """The API of a project as an ASGI application. When ``closing`` is set, calls that wait are told that it stops."""
    no_route = partial(_no_route, gateway)
    app = FastAPI(
        title=f"Dovetail: {gateway.project.config.name}",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url="/v1/docs",
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={StarletteHTTPException: no_route, HTTPException: no_route},
    )
    app.add_middleware(TraceHeaders)
    calls = _Calls(gateway, config, tokens, around, closing or asyncio.Event())
    for door in gateway.doors.values():
        if door.kind == "requests":
            schema = door.intake.schema
            flags, of = _parameters("features", door), f"/{door.scene}" if door.scene else ""
            rank, features = partial(calls.rank, door), partial(calls.features, door)
            calls.route(app, f"/v1/rank{of}", Scope.rank, rank, _RANK, rows=schema, parameters=flags)
            calls.route(app, f"/v1/features{of}", Scope.rank, features, _FEATURES, rows=schema)
        else:
            folder = "events" if door.kind == "stream" else "labels"
            said = _SEND.format(what="events" if door.kind == "stream" else "labels", topic=door.topic)
            path, send = f"/v1/{folder}/{door.name}", partial(calls.send, door)
            flags = _parameters("atomic", door)
            calls.route(app, path, Scope.send, send, said, rows=door.intake.schema, parameters=flags)
    for view in gateway.project.stream_views.values():
        keys, said = KeyCalls(view, gateway.stores.online), _KEYS.format(view=view.name)
        path = f"/v1/features/{view.name}"
        calls.route(app, path, Scope.rank, partial(calls.keys, keys), said, rows=keys.schema)
    calls.route(app, "/v1/definitions", Scope.read, calls.definitions, "Every definition, as it is served.")
    calls.route(app, "/v1/models", Scope.read, calls.models, "Published models: serving, candidate and older ones.")
    calls.route(app, "/v1/freshness", Scope.read, calls.freshness, "How far views, labels and samples have come.")
    calls.route(app, "/metrics", Scope.read, partial(_metrics, around.registry), "Metrics for Prometheus.")
    calls.route(app, "/healthz", None, partial(_health, around.alive), "Whether the process is alive.")
    calls.route(app, "/readyz", None, partial(_health, around.ready), "Whether a call made now is answered.")
    return app


_SEND = (
    "Sends {what} to the topic {topic}: one row, an array, lines of JSON, or an Arrow stream. Answered when the log "
    "has them durably, with partition and offset of each; rows that an agent would refuse are told by number and "
    "reason, and are not sent. With `atomic=true` all rows are sent, or none."
)
_RANK = (
    "Scores the candidates of a request (or of several) and records their snapshot; answered when the snapshot is "
    "durable. With `features=true` the answer has the features as recorded, and the positions they include."
)
_FEATURES = "Gives the features of a request's candidates as of its time, from the state there is now. Records nothing."
_KEYS = (
    "Gives the values of {view} for keys, without a request: as of the newest event that the state includes, or of "
    "`as_of`. Records nothing."
)


class _Calls:
    """The calls; each gets a request and gives a response."""

    def __init__(
        self, gateway: Gateway, config: ApiConfig, tokens: Tokens, around: Surroundings, closing: asyncio.Event
    ) -> None:
        self._gateway, self._config, self._tokens = gateway, config, tokens
        self._places = Places(config.max_waiting)
        self._metrics = CallMetrics(around.registry)
        self._timeout_s = config.timeout / _US
        self._closing = closing
        self._kept = KeptAnswers(gateway.stores.registry.calls, gateway.clock)

    def route(
        self,
        app: FastAPI,
        path: str,
        scope: Scope | None,
        handler: _Handler,
        said: str,
        *,
        rows: TableSchema | None = None,
        parameters: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Add a route: POST with ``rows``, or GET without. ``scope``: who may; None: everybody."""

        async def call(request: Request) -> Response:
            began = time.perf_counter()
            response = await self._guarded(request, scope, handler)
            self._metrics.answered(path, response.status_code, time.perf_counter() - began)
            return response

        app.add_api_route(
            path,
            call,
            methods=["GET" if rows is None else "POST"],
            summary=said.partition(".")[0],
            description=said,
            operation_id=path.strip("/").replace("/", "_"),
            response_class=JSONResponse,
            openapi_extra={} if rows is None else {"requestBody": _body_of(rows), "parameters": list(parameters)},
            responses=_RESPONSES if rows is not None else {},
        )

    async def _guarded(self, request: Request, scope: Scope | None, handler: _Handler) -> Response:
        try:
            self._authorize(request, scope)
            _check_query(request)
            with self._places.one():
                return await self._until_closing(handler(request))
        except Busy:
            busy = f"{self._config.max_waiting} calls are being answered ([api] max_waiting): come back in a second"
            return _refused(_Refusal(429, busy, headers=_SOON))
        except ClientDisconnect:
            return _refused(_Refusal(400, "the connection ended before the body did"))
        except (BadBody, BadKey) as error:
            return _refused(_Refusal(error.status, str(error)))
        except _Refusal as error:
            return _refused(error)
        except Unanswered as error:
            return _refused(_Refusal(504, str(error)))
        except (StoreError, TransportError) as error:
            return _refused(_Refusal(503, masked(str(error)), headers=_SOON))

    async def _until_closing(self, call: Awaitable[Response]) -> Response:
        """The response of ``call``, unless the process stops first."""
        answering = asyncio.ensure_future(call)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({answering, closing}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise _Refusal(
                503, "the process stops; what was sent and not acknowledged may be in the log", headers=_SOON
            )
        finally:
            closing.cancel()
            answering.cancel()

    def _authorize(self, request: Request, scope: Scope | None) -> None:
        if scope is None or not self._tokens:
            return
        granted = self._tokens.granted(bearer_of(request.headers.get("authorization", "")))
        if granted is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise _Refusal(401, "give a token of this API: Authorization: Bearer TOKEN", headers=challenge)
        if scope not in granted:
            raise _Refusal(403, f"the token does not have the scope {scope}")

    async def _rows(self, request: Request, schema: TableSchema) -> Any:
        _check_encoding(request)
        most = self._config.max_body_bytes
        said = request.headers.get("content-length", "")
        if len(said) >= _DIGITS or (said.isdigit() and int(said) > most):
            raise too_large(most)
        body = await read_body(request.stream(), most, self._timeout_s)
        given = (request.headers.get("content-type", ""), body, schema, self._config.max_rows)
        if len(body) > _LONG_BODY:
            return await asyncio.to_thread(rows_of_body, *given)
        if body.startswith(b"{"):  # an object, or a line: nothing is parsed yet, and to hand it over would cost more
            return rows_of_body(*given)
        return await compute(rows_of_body, *given)

    async def send(self, door: Door, request: Request) -> Response:
        """Send rows."""
        atomic = _flag(request, "atomic")
        rows = await self._rows(request, door.intake.schema)
        call = call_of(door, request.headers.getlist(IDEMPOTENCY_KEY), rows, atomic=atomic)

        async def make() -> dict[str, Any]:
            name = None if call is None else call.key
            return _answer(await self._gateway.send(door, rows, atomic=atomic, call=name))

        answer, again = (await make(), False) if call is None else await self._kept.once(door, call, make)
        headers = {"Idempotency-Replayed": "true"} if again else {}
        return JSONResponse(answer, status_code=200 if answer["accepted"] else 422, headers=headers)

    async def rank(self, door: Door, request: Request) -> Response:
        """Rank the candidates of requests."""
        call_of(door, request.headers.getlist(IDEMPOTENCY_KEY), (), atomic=False)
        whole = _flag(request, "features")
        arrow = wants_arrow(request.headers.get("accept", ""))
        rows = await self._rows(request, door.intake.schema)
        return await rank_answer(self._gateway, door, rows, whole=whole, arrow=arrow, timeout_s=self._timeout_s)

    async def features(self, door: Door, request: Request) -> Response:
        """Give the features of requests."""
        arrow = wants_arrow(request.headers.get("accept", ""))
        rows = await self._rows(request, door.intake.schema)
        return await compute(features_answer, self._gateway, door, rows, arrow=arrow)

    async def keys(self, keys: KeyCalls, request: Request) -> Response:
        """Give what a view has for bare keys."""
        arrow = wants_arrow(request.headers.get("accept", ""))
        rows = await self._rows(request, keys.schema)
        return await compute(keys.answer, rows, arrow=arrow)

    async def definitions(self, _request: Request) -> Response:
        """List the definitions."""
        return JSONResponse(await compute(definitions_of, self._gateway.project))

    async def models(self, _request: Request) -> Response:
        """List the models."""
        return JSONResponse(await compute(models_of, self._gateway.project, self._gateway.stores))

    async def freshness(self, _request: Request) -> Response:
        """Say how far all has come."""
        return JSONResponse(await compute(freshness_of, self._gateway.project, self._gateway.stores))


def _answer(accepted: Accepted) -> dict[str, Any]:
    return {
        "accepted": len(accepted.positions),
        "positions": [
            {"row": row, "partition": place[0], "offset": place[1]} for row, place in accepted.positions.items()
        ],
        "rejected": [{"row": row, "reason": reason} for row, reason in accepted.bad.items()],
    }


async def _health(health: Health, _request: Request) -> Response:
    well, said = await compute(health)
    return JSONResponse(dict(said), status_code=200 if well else 503)


async def _metrics(registry: CollectorRegistry, request: Request) -> Response:
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    text: bytes = await compute(encode, registry)
    return Response(text, media_type=content_type)


async def _no_route(gateway: Gateway, request: Request, error: Exception) -> Response:
    """There is no such path, or not with this method."""
    status = error.status_code if isinstance(error, StarletteHTTPException) else 500
    headers = getattr(error, "headers", None)
    what = getattr(error, "detail", error)
    named = _SCENE_CALL.fullmatch(request.url.path)
    if status == 404 and named is not None:
        scenes = ", ".join(gateway.project.config.scenes) or "none but the one without a name"
        what = f"there is no scene {named[2]!r}; [scenes] has {scenes}"
        if named[1] == "features":
            views = ", ".join(gateway.project.stream_views) or "there are none"
            what = f"there is no scene or streaming view {named[2]!r}; [scenes] has {scenes}; the views are {views}"
    said = f"{request.method} {request.url.path}: {what}; /v1/openapi.json lists the calls"
    return _refused(_Refusal(status, said, headers=headers))


def _check_query(request: Request) -> None:
    unknown = sorted(set(request.query_params) - _FLAGS)
    if unknown:
        raise _Refusal(400, f"there is no parameter {unknown[0]!r}; {' and '.join(sorted(_FLAGS))} are known")


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    charset = request.headers.get("content-type", "").lower().partition("charset=")[2].split(";")[0].strip(' "')
    if encoding != "identity":
        raise _Refusal(415, f"Content-Encoding {encoding!r} is not taken; send the body as it is")
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise _Refusal(415, f"charset {charset!r} is not taken; send UTF-8")


def _flag(request: Request, name: str) -> bool:
    said = request.query_params.get(name, "false").lower()
    if said not in ("true", "false", "1", "0"):
        raise _Refusal(400, f"{name}={said!r}: say true or false")
    return said in ("true", "1")


def _refused(refusal: _Refusal) -> Response:
    return JSONResponse({"error": str(refusal)}, status_code=refusal.status, headers=dict(refusal.headers or {}))


def _body_of(rows: TableSchema) -> dict[str, Any]:
    row = schema_of(rows)
    return {
        "required": True,
        "content": {
            JSON: {"schema": {"oneOf": [row, {"type": "array", "items": row, "minItems": 1}]}},
            NDJSON: {"schema": {"type": "string", "description": "a row a line, each as in application/json"}},
            ARROW: {"schema": {"type": "string", "format": "binary", "description": "columns as declared"}},
        },
    }


def _parameters(flag: str, door: Door) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": flag, "in": "query", "schema": {"type": "boolean", "default": False}}]
    if door.ids is not None:
        said = "A call that is sent again with its key is answered as it was, and its rows are the same events."
        key = {"type": "string", "pattern": KEY_PATTERN}
        found.append({"name": IDEMPOTENCY_KEY, "in": "header", "description": said, "schema": key})
    return found


_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "content": _ERROR}
    for status, said in {
        400: "the body cannot be read as rows",
        401: "no token, or one that is unknown",
        403: "the token does not have the scope",
        408: "the body was not here in time",
        413: "more bytes or rows than are taken at a time",
        415: "a type of body that is not taken",
        422: "no row could be taken: each is told by number and reason",
        429: "too many calls at a time",
        503: "the broker has not taken the rows, or a store does not answer",
        504: "no agent has answered in time",
    }.items()
}
