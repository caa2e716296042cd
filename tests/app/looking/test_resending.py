"""Letters sent again: each once, wherever it was interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from dovetail.app.looking.letters import Letter
from dovetail.app.looking.resending import RESENT_HEADER, Resending, resend
from dovetail.platform.errors import StoreError
from dovetail.platform.rows.wire import LetterHead
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.transports.faust_app import App, create_app
from dovetail.platform.transports.publishing import Publisher, publisher
from dovetail.platform.transports.viewing import read_all, view_topics


def letter(offset: int, *, at: int = 0, complete: bool = True) -> Letter:
    head = LetterHead("stage", "in", offset % 2, at, 1, 0, "why")
    return Letter(offset, head, b"k%d" % offset, (("trace", b"t"),), b"v%d" % offset, complete)


class Broken(Exception):
    """Where the process is thought to have died."""


class Mortal:
    """A publisher that dies before or after it has published."""

    def __init__(self, publisher: Publisher, when: str) -> None:
        self._publisher, self._when = publisher, when

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        if self._when == "after":
            await self._publisher.publish(outgoing)
        raise Broken


@pytest.fixture
def app(tmp_path: Path) -> App:
    return create_app("client", f"embedded://{tmp_path / 'log.sqlite'}", topics={"in": 2})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")


async def again(app: App, registry: Registry, letters: list[Letter], dies: str = "") -> Resending:
    async with view_topics(app) as view, publisher(app) as there:
        through = Mortal(there, dies) if dies else there
        return await resend(letters, registry, view, through)  # type: ignore[arg-type]


async def there_are(app: App) -> list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes]]]]:
    async with view_topics(app) as view:
        return [
            (poll.partition, key, value, list(headers))
            async for poll in read_all(view, "in", {})
            for key, value, headers in zip(poll.keys, poll.values, poll.headers, strict=True)
        ]


@pytest.mark.parametrize("dies", ["", "before", "after"])
def test_each_is_sent_once_as_it_was(app: App, registry: Registry, dies: str) -> None:
    letters = [letter(0), letter(1), letter(2)]

    async def run() -> None:
        if dies:
            with pytest.raises(Broken):
                await again(app, registry, letters[:2], dies)
        first = await again(app, registry, letters)
        assert first.sent + first.before == 3
        assert first.before == (2 if dies == "after" else 0)
        assert await again(app, registry, letters) == Resending(0, 3)
        assert await there_are(app) == [
            (n % 2, b"k%d" % n, b"v%d" % n, [("trace", b"t"), (RESENT_HEADER, b"%d" % n)]) for n in (0, 2, 1)
        ]

    asyncio.run(run())


def test_a_value_that_was_left_out_is_taken_from_its_topic_or_reported(app: App, registry: Registry) -> None:
    async def run() -> None:
        async with publisher(app) as there:
            await there.publish([Outgoing("in", b"large", b"key", 0, headers=(("h", b"x"),))])
        lost = letter(2, at=77, complete=False)
        done = await again(app, registry, [letter(0, at=0, complete=False), lost])
        assert (done.sent, done.lost) == (1, (lost,))
        assert (await there_are(app))[1] == (0, b"key", b"large", [("h", b"x"), (RESENT_HEADER, b"0")])

    asyncio.run(run())


def test_two_do_not_send_at_once(app: App, registry: Registry, tmp_path: Path) -> None:
    other = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")

    async def run() -> None:
        with other.alone("resend"), pytest.raises(StoreError, match="another process does the same"):
            await again(app, registry, [letter(0)])
        assert await again(app, registry, [letter(0)]) == Resending(1, 0)

    asyncio.run(run())
    other.close()
