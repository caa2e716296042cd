"""Published models over a topic: for scorers that cannot see the trainer's directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from dovetail.platform.errors import WireError
from dovetail.platform.rows.fitting import value_limit
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.trainer.models.publish import ModelDirectory

__all__ = ["ModelMirror", "messages"]

# Small parts are no slower, and leave room for other messages in between.
_PART_BYTES = 900_000
_VERSION, _PART, _PARTS = "dovetail-model-version", "dovetail-part", "dovetail-parts"


def messages(topic: str, version: int, content: bytes, *, limit: int = 1 << 20) -> list[Outgoing]:
    """A publication as messages of at most ``limit`` bytes, framing included, to partition 0, which keeps their order.

    Whatever its size, it is published: the number of parts is not bounded.
    """
    part_bytes = min(_PART_BYTES, value_limit(limit, _message(topic, version, b"", len(content), len(content))))
    parts = [content[start : start + part_bytes] for start in range(0, len(content), part_bytes)]
    return [_message(topic, version, part, number, len(parts)) for number, part in enumerate(parts)]


def _message(topic: str, version: int, value: bytes, number: int, parts: int) -> Outgoing:
    return Outgoing(
        topic,
        value,
        key=b"%d" % version,
        partition=0,
        headers=((_VERSION, b"%d" % version), (_PART, b"%d" % number), (_PARTS, b"%d" % parts)),
    )


class ModelMirror(Stage):
    """Installs what is published to a topic into a directory, from which scorers read as if it were the trainer's.

    It reads the topic from its beginning at every start and keeps its position in memory only: installing again is a
    no-op. A publication is installed when its last part is here, whole, and not at all before. A
    publication whose first parts are gone (retention) is skipped; if that leaves a gap, scorers keep what they have
    until the next full model.
    """

    name = "models"

    def __init__(self, topic: str, directory: ModelDirectory) -> None:
        self.topics = (topic,)
        self._directory = directory
        self._version = 0
        self._parts: list[bytes] = []
        self._read: dict[int, int] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self._read)

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._parts = []
        self._read.clear()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Install every publication that is complete.

        :raises WireError: a message has no model headers.
        :raises ModelError: a publication is damaged, or its version is here with other content.
        """
        complete: list[bytes] = []
        for offset, value, headers in zip(poll.offsets.tolist(), poll.values, poll.headers, strict=True):
            content = self._collect(poll, offset, value or b"", dict(headers))
            if content is not None:
                complete.append(content)

        def commit() -> None:
            for content in complete:
                self._directory.install(content)
            self._read[poll.partition] = poll.last + 1

        yield Work(commit=commit, done=poll.last + 1)

    def _collect(self, poll: Poll, offset: int, value: bytes, headers: Mapping[str, bytes]) -> bytes | None:
        try:
            version, part, parts = (int(headers[name]) for name in (_VERSION, _PART, _PARTS))
        except (KeyError, ValueError) as error:
            raise WireError(
                f"{poll.topic}, partition {poll.partition}, offset {offset}: not part of a model ({error!r}); only the "
                "trainer may write to this topic"
            ) from error
        if part == 0:
            self._version, self._parts = version, []
        if version != self._version or part != len(self._parts):
            self._version, self._parts = 0, []
            return None
        self._parts.append(value)
        if len(self._parts) < parts:
            return None
        content, self._parts = b"".join(self._parts), []
        return content
