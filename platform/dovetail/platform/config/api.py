"""``[api]`` of ``dovetail.toml``: where the HTTP API listens, who may use it, and how much it takes at a time."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Section

__all__ = ["ApiConfig"]


class ApiConfig(Section):
    """The HTTP API of the project. A project without this section has none."""

    host: str = "127.0.0.1"
    #: 0 takes a free one and says which.
    port: int = Field(default=8080, ge=0, le=65_535)
    #: Topic in which workers answer requests that came over HTTP; each process of the API reads all of it.
    reply_topic: str = Field(default="api-replies", min_length=1)
    #: Lines of a token, a space and its scopes out of send, rank and read, with commas between; or a variable of them.
    tokens_file: Path | None = None
    tokens_env: str = ""
    #: The API's certificate and key (PEM): HTTPS instead of HTTP.
    cert_file: Path | None = None
    key_file: Path | None = None
    #: The largest body, and the most rows in one.
    max_body_bytes: int = Field(default=8 << 20, ge=1_024, le=1 << 30)
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    #: The most candidates that one call may have ranked: all other requests wait for them.
    max_candidates: int = Field(default=10_000, ge=1, le=1_000_000)
    #: Calls that are being answered at a time; one more is told to come back.
    max_waiting: int = Field(default=256, ge=1, le=65_536)
    #: The longest a call may take: reading its body, or waiting for its answer.
    timeout: DurationUs = 10_000_000

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
    def _pairs(self) -> ApiConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both, or neither for HTTP")
        if self.tokens_file is not None and self.tokens_env:
            raise ValueError("tokens_file and tokens_env are two places for one thing: give one of them")
        if self.timeout <= 0:
            raise ValueError("timeout must be longer than nothing")
        return self
