"""The console as an ASGI application: its routes, all of which only read, and what each answers."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException

from dovetail.console.access import HEADERS, Guard, token_of
from dovetail.console.looked import Looked
from dovetail.console.pages.catalogue_page import catalogue_page, definition_page, lineage_page
from dovetail.console.pages.experiments_page import experiments_page
from dovetail.console.pages.flow_page import flow_page
from dovetail.console.pages.model_page import model_page
from dovetail.console.pages.nowhere import Nowhere
from dovetail.console.pages.request_page import candidate_page, recent_requests, request_page, value_page
from dovetail.console.pages.trust_page import trust_page
from dovetail.console.rendering import page
from dovetail.console.vega_script import VegaScript, VegaUnavailable
from dovetail.platform.errors import DovetailError
from dovetail.platform.masking import masked

__all__ = ["TABS", "site"]

#: The pages that the head of each page leads to: address and name.
TABS = (
    ("/flow", "Flow"),
    ("/definitions", "Definitions"),
    ("/sample", "Sample"),
    ("/model", "Model"),
    ("/experiments", "Experiments"),
    ("/trust", "Trust"),
)

_SCRIPT = "text/javascript; charset=utf-8"
_STATIC = {"console.css": "text/css; charset=utf-8", "console.js": _SCRIPT, "charts.js": _SCRIPT}
_LOGIN_BYTES = 4_096
#: Pages that are computed at a time: a worker has more to do.
_AT_ONCE = 2

_Shown = tuple[str, Mapping[str, Any]]


def site(looked: Looked, guard: Guard) -> FastAPI:
    """The pages about ``looked`` for whom ``guard`` admits."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    pages = _Pages(looked, guard)
    for path, show in pages.shown().items():
        app.add_api_route(path, pages.route(path, show), methods=["GET"], response_class=HTMLResponse)
    app.add_api_route("/login", pages.login, methods=["GET", "POST"], response_class=HTMLResponse)
    app.add_api_route("/static/vega.js", pages.vega, methods=["GET"])
    app.add_api_route("/static/{name}", _static, methods=["GET"])
    app.add_exception_handler(HTTPException, pages.no_route)
    return app


class _Pages:
    """The pages; each is a template and what it shows, made of the parameters of a call."""

    def __init__(self, looked: Looked, guard: Guard) -> None:
        self._looked, self._guard = looked, guard
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._vega = VegaScript()

    def shown(self) -> dict[str, Callable[[Request], Awaitable[_Shown]]]:
        """By path, what shows it."""
        return {
            "/": self._flow,
            "/flow": self._flow,
            "/definitions": self._definitions,
            "/definition": self._definition,
            "/lineage": self._lineage,
            "/sample": self._sample,
            "/candidate": self._candidate,
            "/value": self._value,
            "/model": self._model,
            "/experiments": self._experiments,
            "/trust": self._trust,
        }

    def route(
        self, path: str, show: Callable[[Request], Awaitable[_Shown]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler of a page: whoever may not see it is sent to the login, and errors are said on a page."""

        async def answer(request: Request) -> Response:
            if not self._guard.called_rightly(request):
                said = "this console answers on this machine alone; give it tokens to reach it by another name"
                return self._failed(path, 421, said)
            if not self._guard.admits(request):
                return self._sent_to_login(request)
            try:
                async with self._places:
                    template, shown = await show(request)
                    text = await asyncio.to_thread(page, template, {**self._frame(path), **shown})
            except Nowhere as error:
                return self._failed(path, 404, str(error))
            except DovetailError as error:
                return self._failed(path, 503, masked(str(error)))
            return HTMLResponse(text, headers=HEADERS)

        return answer

    async def login(self, request: Request) -> Response:
        """Take a token, if it is one, and keep it in a cookie."""
        if request.method == "GET" or not self._guard.asks:
            return self._login_page(200, "")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LOGIN_BYTES:
                return self._login_page(413, "this is too long for a token")
        token = token_of(body)
        if not self._guard.knows(token):
            return self._login_page(401, "this is not a token with the scope read")
        response = RedirectResponse("/", status_code=303, headers=HEADERS)
        response.set_cookie(**self._guard.cookie(token))  # type: ignore[arg-type]
        return response

    async def no_route(self, request: Request, error: Exception) -> Response:
        """There is no such page, or not with this method."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        if not self._guard.admits(request):
            return self._sent_to_login(request)
        return self._failed("", status, f"{request.method} {request.url.path}: there is no such page")

    async def vega(self, request: Request) -> Response:
        """The script that draws charts, made when it is first asked for; a browser keeps it by its address."""
        if not self._guard.called_rightly(request) or not self._guard.admits(request):
            raise HTTPException(404)
        try:
            script = await self._vega.compressed()
        except VegaUnavailable as error:
            return Response(masked(str(error)), 503, media_type="text/plain; charset=utf-8", headers=HEADERS)
        headers = {**HEADERS, "Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
        else:
            script = await asyncio.to_thread(gzip.decompress, script)
        return Response(script, media_type=_SCRIPT, headers=headers)

    def _sent_to_login(self, request: Request) -> Response:
        if "authorization" in request.headers:
            return HTMLResponse("unknown token", 401, headers={**HEADERS, "WWW-Authenticate": "Bearer"})
        return RedirectResponse("/login", status_code=303, headers=HEADERS)

    def _login_page(self, status: int, said: str) -> Response:
        shown = {"said": said, "asks": self._guard.asks, **self._frame("/login"), "tabs": ()}
        return HTMLResponse(page("login.html", shown), status, headers=HEADERS)

    def _failed(self, path: str, status: int, said: str) -> Response:
        shown = {"said": said, "status": status, **self._frame(path)}
        return HTMLResponse(page("failed.html", shown), status, headers=HEADERS)

    def _frame(self, path: str) -> dict[str, Any]:
        shown = {"tabs": TABS, "path": path, "project": self._looked.project.config.name}
        return {**shown, "vega": self._vega.version}

    async def _flow(self, _request: Request) -> _Shown:
        return "flow.html", await flow_page(self._looked)

    async def _definitions(self, _request: Request) -> _Shown:
        return "definitions.html", await asyncio.to_thread(catalogue_page, self._looked)

    async def _definition(self, request: Request) -> _Shown:
        return "definition.html", await asyncio.to_thread(definition_page, self._looked, _asked(request, "name"))

    async def _lineage(self, request: Request) -> _Shown:
        asked = request.query_params
        made = asyncio.to_thread(lineage_page, self._looked, asked.get("set"), asked.get("through"))
        return "lineage.html", await made

    async def _sample(self, request: Request) -> _Shown:
        asked = request.query_params.get("id", "").strip()
        if asked:
            return "request.html", await request_page(self._looked, asked)
        return "sample.html", {"recent": await asyncio.to_thread(recent_requests, self._looked)}

    async def _candidate(self, request: Request) -> _Shown:
        of = (_asked(request, "id"), _asked(request, "item"), _place(request))
        return "candidate.html", await candidate_page(self._looked, *of)

    async def _value(self, request: Request) -> _Shown:
        of = (_asked(request, "id"), _asked(request, "item"), _place(request), _asked(request, "feature"))
        return "value.html", await value_page(self._looked, *of)

    async def _model(self, _request: Request) -> _Shown:
        return "model.html", await asyncio.to_thread(model_page, self._looked)

    async def _experiments(self, _request: Request) -> _Shown:
        return "experiments.html", await asyncio.to_thread(experiments_page, self._looked)

    async def _trust(self, _request: Request) -> _Shown:
        return "trust.html", await asyncio.to_thread(trust_page, self._looked)


def _asked(request: Request, name: str) -> str:
    if name not in request.query_params:
        raise Nowhere(f"{request.url.path} needs the parameter {name}")
    return request.query_params[name]


def _place(request: Request) -> int | None:
    said = request.query_params.get("place", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None


async def _static(name: str) -> Response:
    if name not in _STATIC:
        raise HTTPException(404)
    content = files("dovetail.console").joinpath("static", name).read_bytes()
    return Response(content, media_type=_STATIC[name], headers={**HEADERS, "Cache-Control": "max-age=300"})
