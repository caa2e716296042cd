"""The base of every section of ``dovetail.toml``: fixed once read, and without unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Name", "Section"]

#: A name that is also an SQL identifier.
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A section; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
