"""``[api]`` of ``dovetail.toml``: where the HTTP API listens, who may use it, and how much it takes at a time."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.served.listening import ListeningConfig

__all__ = ["ApiConfig"]


class ApiConfig(ListeningConfig):
    """The HTTP API of the project. A project without this section has none."""

    section: ClassVar[str] = "api"

    port: int = Field(default=8080, ge=0, le=65_535)
    #: Topic in which workers answer requests that came over HTTP; each process of the API reads all of it.
    reply_topic: str = Field(default="api-replies", min_length=1)
    #: The largest body, and the most rows in one.
    max_body_bytes: int = Field(default=8 << 20, ge=1_024, le=1 << 30)
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    #: The most candidates that one call may have ranked: all other requests wait for them.
    max_candidates: int = Field(default=10_000, ge=1, le=1_000_000)
    #: The longest a call may take: reading its body, or waiting for its answer.
    timeout: DurationUs = 10_000_000

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.timeout <= 0:
            raise ValueError("timeout: no call would be answered in no time; make it longer")
        return self
