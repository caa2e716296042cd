"""Where things are in the checkout that the tests run in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT"]

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent
