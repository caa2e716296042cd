"""Documents posted to an address outside: as JSON, in bounded time, and without ever failing who posts them."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from dovetail.platform.config.quality.rules import QualityConfig, is_web_address
from dovetail.platform.errors import ConfigError
from dovetail.platform.masking import variable_name

__all__ = ["PAUSES_S", "Delivery", "Webhook", "webhook_of"]

#: Seconds between one attempt and the next; there is one attempt more than pauses.
PAUSES_S = (1.0, 4.0)
#: Answers after which the same may be taken another time; any other but success is final.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Delivery:
    """A document that was posted, or was not: what each attempt came to that did not succeed, in words.

    ``to`` is the address without what may be secret of it.
    """

    to: str
    delivered: bool
    attempts: int
    problems: tuple[str, ...]


class _Answer(NamedTuple):
    """The outcome of one attempt: what is wrong, empty for success, and whether another one may succeed."""

    problem: str
    passing: bool


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the document is for the address that was declared."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that takes documents; ``url`` is secret but for its host, and in no text that comes from here."""

    url: str
    timeout_us: int

    @property
    def shown(self) -> str:
        """The address as anybody may see it: without user, path and options."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{_host(parts)}/***"

    def __repr__(self) -> str:
        return f"Webhook({self.shown!r})"

    def post(
        self,
        document: Mapping[str, Any],
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        wait: Callable[[float], None] = time.sleep,
    ) -> Delivery:
        """Post ``document`` as JSON, again after each pause while the failure may pass.

        Each attempt ends after the timeout, whatever the server does, and what is raised in it is told, not raised.
        After an attempt without an answer the server may have the document all the same, and get it twice.
        """
        request, problems = self._request(json.dumps(document).encode()), list[str]()
        for pause in (*pauses_s, None):
            answer = self._attempt(request)
            if not answer.problem:
                return Delivery(self.shown, True, len(problems) + 1, tuple(problems))
            problems.append(answer.problem)
            if pause is None or not answer.passing:
                break
            wait(pause)
        return Delivery(self.shown, False, len(problems), tuple(problems))

    def _request(self, body: bytes) -> urllib.request.Request:
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/json", "User-Agent": "dovetail"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        url = parts._replace(netloc=_host(parts), fragment="").geturl()
        return urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - the scheme is checked

    def _attempt(self, request: urllib.request.Request) -> _Answer:
        """Ask in a thread that is left to itself when its time is up: names are looked up, and bytes may drip."""
        answers: SimpleQueue[_Answer] = SimpleQueue()
        seconds = self.timeout_us / 1e6
        threading.Thread(target=lambda: answers.put(_asked(request, seconds)), daemon=True).start()
        late = _Answer(f"no answer within {seconds:g} s", passing=True)
        try:
            answer = answers.get(timeout=seconds)
        except Empty:
            return late
        return late if answer.problem == _TIMED_OUT else answer


_TIMED_OUT = "timed out"


def webhook_of(config: QualityConfig) -> Webhook | None:
    """The webhook of ``[quality]``; None without one.

    Raises:
        ConfigError: the environment variable that it names has none.
    """
    if config.webhook is not None:
        return Webhook(config.webhook.get_secret_value(), config.webhook_timeout)
    if not config.webhook_env:
        return None
    url = os.environ.get(config.webhook_env, "").strip()
    if not is_web_address(url):
        raise ConfigError(
            f"quality.webhook_env: the environment variable {variable_name(config.webhook_env)} holds no address that "
            "begins with http:// or https:// and has a host; set it, or remove the option"
        )
    return Webhook(url, config.webhook_timeout)


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _asked(request: urllib.request.Request, seconds: float) -> _Answer:
    """The outcome in words of ours: those of libraries and servers may repeat the address."""
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=seconds):
            return _Answer("", passing=False)
    except urllib.error.HTTPError as error:
        error.close()
        return _Answer(f"HTTP {error.code}", error.code in _PASSING)
    except TimeoutError:
        return _Answer(_TIMED_OUT, passing=True)
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return _Answer(_TIMED_OUT, passing=True)
        said = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
        return _Answer(str(said), passing=True)
    except Exception as error:  # noqa: BLE001 - the verdict does not depend on who is told of it
        return _Answer(type(error).__name__, passing=True)
