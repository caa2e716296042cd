"""Messages of a sharded model on a topic: cut to what the broker takes, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dovetail.platform.errors import WireError
from dovetail.platform.rows.fitting import value_limit
from dovetail.platform.stage import Outgoing, Poll
from dovetail.trainer.sharded.batch_messages import BatchMessage, ModelPiece, decode, encode
from dovetail.trainer.sharded.evaluated_rows import Verdict

__all__ = ["Identity", "Mailbox", "MailboxReader", "posted"]

_PART, _PARTS = "dovetail-part", "dovetail-parts"
_LARGEST = 900_000


class Identity(NamedTuple):
    """Names a message by what it is about: one of the same identity that is sent again is the same message."""

    kind: str
    #: Of its batch, or its version.
    number: int
    shard: int

    @classmethod
    def of(cls, message: BatchMessage) -> Identity:
        """The identity of ``message``."""
        number = message.version if isinstance(message, ModelPiece | Verdict) else message.number
        return cls(type(message).__name__, number, getattr(message, "shard", 0))


def posted(topic: str, partition: int, message: BatchMessage, limit: int = 1 << 20) -> Iterator[Outgoing]:
    """``message`` in parts that are, framing included, at most ``limit`` bytes."""
    content, key = encode(message), "{}.{}.{}".format(*Identity.of(message)).encode()

    def part(value: bytes, number: int, parts: int) -> Outgoing:
        headers = ((_PART, b"%d" % number), (_PARTS, b"%d" % parts))
        return Outgoing(topic, value, key=key, partition=partition, headers=headers)

    size = max(1, min(_LARGEST, value_limit(limit, part(b"", len(content), len(content)))))
    starts = range(0, len(content), size)
    for number, start in enumerate(starts):
        yield part(content[start : start + size], number, len(starts))


class Mailbox:
    """One partition of such a topic, read from ``next_offset`` on.

    Writers interleave, and send again after a crash. ``done`` says of an identity that its message has been acted on,
    and that the reader's state includes it: such a message is skipped, and no longer kept from being passed over.
    """

    def __init__(self, next_offset: int, done: Callable[[Identity], bool]) -> None:
        #: The offset after the last message taken.
        self.next = next_offset
        self._done = done
        # Where each message began that was not done when it was last asked.
        self._first: dict[Identity, int] = {}
        self._parts: dict[tuple[Identity, int], dict[int, bytes]] = {}

    @property
    def position(self) -> int:
        """The offset to read on from, so that all comes again that the reader's state does not include."""
        self._first = {one: offset for one, offset in self._first.items() if not self._done(one)}
        self._parts = {key: parts for key, parts in self._parts.items() if key[0] in self._first}
        return min(self._first.values(), default=self.next)

    def take(self, poll: Poll) -> Iterator[BatchMessage]:
        """The messages that ``poll`` completes, each when the one before has been acted on.

        :raises WireError: a message is none of a sharded model's.
        """
        poll = poll.since(self.next)
        for offset, key, value, headers in zip(
            poll.offsets.tolist(), poll.keys, poll.values, poll.headers, strict=True
        ):
            where = f"{poll.topic}, partition {poll.partition}, offset {offset}"
            identity, number, parts = _place(where, key, dict(headers))
            if not self._done(identity):
                self._first.setdefault(identity, offset)
                collected = self._parts.setdefault((identity, parts), {})
                collected.setdefault(number, value or b"")
                if len(collected) == parts:
                    del self._parts[identity, parts]
                    yield decode(b"".join(collected[part] for part in range(parts)))
            self.next = offset + 1


class MailboxReader:
    """State made of the messages of a mailbox, which a subclass makes; it says how far it has read."""

    _mailbox: Mailbox

    @property
    def next(self) -> int:
        """The offset after the last message taken."""
        return self._mailbox.next

    @property
    def position(self) -> int:
        """The offset to read on from."""
        return self._mailbox.position


def _place(where: str, key: bytes | None, headers: dict[str, bytes]) -> tuple[Identity, int, int]:
    try:
        kind, number, shard = (key or b"").decode().split(".")
        part, parts = int(headers[_PART]), int(headers[_PARTS])
        return Identity(kind, int(number), int(shard)), part, parts
    except (KeyError, ValueError) as error:
        raise WireError(f"{where}: no message of a sharded model ({error!r}); only Dovetail may write here") from error
