"""Runs a test's coroutine so that waiting for good fails instead."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["run"]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main``. Raises TimeoutError after three minutes."""

    async def limited() -> None:
        async with asyncio.timeout(180):
            await main

    asyncio.run(limited())
