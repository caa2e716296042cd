"""Debian's Chromium, and a console that it can call."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dovetail.console.hosting import Console
from dovetail.features import Project
from dovetail.platform.config.served.console import ConsoleConfig

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, ViewportSize

__all__ = ["DESK", "PHONE", "Browsing", "browsing", "served_console"]

PHONE: ViewportSize = {"width": 390, "height": 844}
DESK: ViewportSize = {"width": 1280, "height": 800}


class Browsing:
    """A browser, and pages of the console at ``address`` in it."""

    def __init__(self, runner: asyncio.Runner, browser: Browser, address: str) -> None:
        self._runner, self._browser, self._address = runner, browser, address

    def on_a_page(self, look: Callable[[Page], Awaitable[None]], *, scripts: bool = True) -> None:
        """``look`` at a page on which nothing is refused and nothing fails; without ``scripts`` none runs."""
        said: list[str] = []

        async def looked() -> None:
            context = await self._browser.new_context(
                base_url=self._address,
                viewport=DESK,
                color_scheme="light",
                reduced_motion="reduce",
                java_script_enabled=scripts,
            )
            page = await context.new_page()
            page.set_default_timeout(60_000)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            await look(page)
            await context.close()

        self._runner.run(looked())
        assert said == []


@contextmanager
def browsing(project: Project) -> Iterator[Browsing]:
    """A browser on the console of ``project``; a test that needs it is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no browser here: no `chromium` on the PATH (Debian: apt-get install chromium)")
    from playwright.async_api import async_playwright

    with served_console(project) as address, asyncio.Runner() as runner:
        playwright = runner.run(async_playwright().start())
        browser = runner.run(playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]))
        try:
            yield Browsing(runner, browser, address)
        finally:
            runner.run(browser.close())
            runner.run(playwright.stop())


@contextmanager
def served_console(project: Project) -> Iterator[str]:
    """The console of ``project`` in a thread of its own; gives its address."""
    console = Console(project, ConsoleConfig(port=0))
    loop, ended, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def watch() -> None:
        ready.set()
        await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(console.beside(watch)()))
    thread.start()
    try:
        assert ready.wait(60), "the console has not begun"
        yield console.url
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)
        console.close()
        loop.close()
