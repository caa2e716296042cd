"""The whole flow inside a program: a worker in a thread, rows in and out as Arrow."""

from __future__ import annotations

from dovetail.embedded.program_flow import EmbeddedFlow

__all__ = ["EmbeddedFlow"]
