"""The guard of the console: tokens in a header or a cookie, and names that a browser on this machine may call it by."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import Request

from dovetail.api.tokens import Scope, Tokens, bearer_of
from dovetail.platform.config.served.listening import ListeningConfig

__all__ = ["COOKIE", "HEADERS", "Guard", "token_of"]

#: The cookie that holds the token which was given to the login page.
COOKIE = "dovetail-console"
#: Of every answer. Nothing is loaded from elsewhere, no script stands in a page, nobody frames one.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_HERE = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Decides who sees pages: with tokens, whoever has one with the scope ``read``; without, this machine."""

    def __init__(self, tokens: Tokens, config: ListeningConfig) -> None:
        self._tokens, self._config = tokens, config

    @property
    def asks(self) -> bool:
        """Whether a token is needed."""
        return bool(self._tokens)

    def admits(self, request: Request) -> bool:
        """Whether the call brings a token that may read, as ``Authorization: Bearer`` or in the cookie."""
        given = bearer_of(request.headers.get("authorization", ""))
        return self.knows(request.cookies.get(COOKIE) if given is None else given)

    def knows(self, token: str | None) -> bool:
        """Whether ``token`` may read."""
        return Scope.read in (self._tokens.granted(token) or ())

    def called_rightly(self, request: Request) -> bool:
        """Whether a call without a token is of a page of ours: its host is this machine.

        A page of another site may name a host of its own that leads here, and read what a browser gets from it.
        """
        if self.asks:
            return True
        host = request.headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return name in _HERE or name == self._config.host.lower()

    def cookie(self, token: str) -> dict[str, object]:
        """The cookie for ``token``, as FastAPI's ``set_cookie`` takes it: of this session, for no script."""
        secure = self._config.cert_file is not None
        return {"key": COOKIE, "value": token, "httponly": True, "samesite": "strict", "secure": secure}


def token_of(body: bytes) -> str:
    """The token that the login form has sent; empty where there is none."""
    try:
        found = parse_qs(body.decode("utf-8"), max_num_fields=4).get("token", [""])
    except ValueError:
        return ""
    return found[0].strip()
