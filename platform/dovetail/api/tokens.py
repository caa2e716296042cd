"""Bearer tokens and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from dovetail.platform.config.served.listening import ListeningConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.masking import variable_name

__all__ = ["Scope", "Tokens", "bearer_of", "tokens_of"]

_LEAST = 16


class Scope(StrEnum):
    """The permissions that a token may have."""

    send = "send"
    rank = "rank"
    read = "read"


class Tokens:
    """Tells whether a token may do something. Keeps hashes alone; without any token everybody may do everything."""

    def __init__(self, scopes: Mapping[str, frozenset[Scope]]) -> None:
        self._scopes = {_hash(token): granted for token, granted in scopes.items()}

    def __bool__(self) -> bool:
        return bool(self._scopes)

    def granted(self, token: str | None) -> frozenset[Scope] | None:
        """The permissions of ``token``; None for one that is unknown. Takes the same time for every token."""
        if not self._scopes:
            return frozenset(Scope)
        asked, found = _hash(token or ""), None
        for known, scopes in self._scopes.items():
            if hmac.compare_digest(known, asked):
                found = scopes
        return found


def bearer_of(authorization: str) -> str | None:
    """The token of an ``Authorization`` header; None where it is empty or of another kind than ``Bearer``."""
    kind, _, token = authorization.partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def tokens_of(config: ListeningConfig, path: Callable[[Path], Path] = Path) -> Tokens:
    """The tokens that ``tokens_file`` or ``tokens_env`` of a section holds: lines of a token and its scopes.

    ``path`` resolves relative files. A line is ``TOKEN scope,scope``; empty lines and those that begin with # are left
    out. Nothing of a token is ever quoted.

    Raises:
        ConfigError: the file or variable cannot be read or is empty, a line is not as it should be, or there are no
            tokens although the section listens where others than this machine may reach it.
    """
    if config.tokens_file is not None:
        place = f"{config.section}.tokens_file: the file that it names"
        try:
            text = path(config.tokens_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{place} cannot be read: {why}") from error
    elif config.tokens_env:
        place = f"{config.section}.tokens_env: the environment variable {variable_name(config.tokens_env)}"
        text = os.environ.get(config.tokens_env, "")
    else:
        if not config.loopback:
            raise ConfigError(
                f"{config.section}.host {config.host!r} can be reached from other machines: name tokens in "
                f"{config.section}.tokens_file or {config.section}.tokens_env, or listen on 127.0.0.1"
            )
        return Tokens({})
    scopes: dict[str, frozenset[Scope]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        token, _, named = line.strip().partition(" ")
        wanted = [name.strip() for name in named.split(",") if name.strip()]
        if len(token) < _LEAST or not wanted or any(name not in set(Scope) for name in wanted):
            raise ConfigError(
                f"{place}: line {number} is not a token of at least {_LEAST} characters, a space, and scopes out of "
                f"{', '.join(Scope)}, with commas between"
            )
        scopes[token] = scopes.get(token, frozenset()) | {Scope(name) for name in wanted}
    if not scopes:
        raise ConfigError(f"{place} has no tokens; write lines of a token, a space and its scopes")
    return Tokens(scopes)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
