"""``[openlineage]``: where runs of backfill, join and train are told, and under which namespace."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.quality.rules import is_web_address
from dovetail.platform.config.section import Section

__all__ = ["OpenLineageConfig"]


class OpenLineageConfig(Section):
    """A file that gets a line of JSON for each event, or an address that each is posted to; without both, none goes."""

    #: Where the project's jobs are.
    namespace: str = "dovetail"
    file: Path | None = None
    #: http:// or https://, like ``http://localhost:5000/api/v1/lineage``, or a variable of it.
    url: SecretStr | None = None
    url_env: str = ""
    #: How long an attempt to post may take.
    timeout: DurationUs = Field(default=5_000_000, ge=1_000, le=60_000_000)

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not is_web_address(url.get_secret_value()):
            raise ValueError("it is no address; write one that begins with http:// or https:// and has a host")
        return url

    @model_validator(mode="after")
    def _one_place(self) -> OpenLineageConfig:
        if sum((self.file is not None, self.url is not None, bool(self.url_env))) > 1:
            raise ValueError("file, url and url_env are places for one thing; remove all but one of them")
        return self
