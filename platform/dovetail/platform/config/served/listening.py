"""The part that sections of ``dovetail.toml`` share which say where something listens, and who may use it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from dovetail.platform.config.section import Section

__all__ = ["ListeningConfig"]


class ListeningConfig(Section):
    """A server over HTTP: its address, its tokens, its certificate."""

    #: The section's name in ``dovetail.toml``, for messages.
    section: ClassVar[str]

    host: str = Field(default="127.0.0.1", min_length=1)
    #: 0 takes a free one and says which.
    port: int = Field(ge=0, le=65_535)
    #: Lines of a token, a space and its scopes out of send, rank and read, with commas between; or a variable of them.
    tokens_file: Path | None = None
    tokens_env: str = ""
    #: Its certificate and key (PEM): HTTPS instead of HTTP.
    cert_file: Path | None = None
    key_file: Path | None = None
    #: Calls that are being answered at a time; one more is told to come back.
    max_waiting: int = Field(default=256, ge=1, le=65_536)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both, or neither for HTTP")
        if self.tokens_file is not None and self.tokens_env:
            raise ValueError("tokens_file and tokens_env are two places for one thing; remove one of them")
        return self
