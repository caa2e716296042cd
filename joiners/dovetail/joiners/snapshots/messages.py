"""The messages that answer requests: snapshots, several requests to one, and scores for those who asked for them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from dovetail.joiners.snapshots.units import Request, request_starts, requests_of, without
from dovetail.platform.rows import wire
from dovetail.platform.rows.fitting import units_above, wire_size
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing, Poll

__all__ = ["REPLY_COLUMNS", "REPLY_HEADER", "Answers", "Fitted", "Replies", "fitted"]

#: A request message with this header gets its scores as a JSON message to the topic the header names, which must be
#: one of ``request.reply_topics``.
REPLY_HEADER = "dovetail-reply-to"
#: The columns of a snapshot that a reply is made of.
REPLY_COLUMNS = ("request_id", "item_id", "score", "model_version")


@dataclass(frozen=True, slots=True)
class Answers:
    """Where answers go: snapshots, dead letters, the topics that scores may be asked for in; and their largest size.

    Whole requests go together in a message, several as long as it has no more than ``rows_per_message`` rows.
    """

    snapshots_topic: str
    dead_letter_topic: str
    reply_topics: Collection[str] = ()
    max_message_bytes: int = 16 << 20
    rows_per_message: int = 20_000

    @property
    def snapshot_limit(self) -> int:
        """The largest message of one snapshot, in bytes: what later stages add to its rows must fit, too."""
        return self.max_message_bytes // 8 * 7


class Replies:
    """The requests of a poll that want their scores sent, and what is wrong with how some ask."""

    def __init__(self, poll: Poll, answers: Answers) -> None:
        self._limit = answers.max_message_bytes
        #: By offset: the topic that wants the scores.
        self.topics: dict[int, str] = {}
        #: By offset: why nothing is sent there, where a header names a topic that is not declared.
        self.wrong: dict[int, str] = {}
        for index, headers in enumerate(poll.headers):
            for name, value in headers:
                if name == REPLY_HEADER:
                    # A header may have no value, whatever its type says.
                    offset, topic = int(poll.offsets[index]), (value or b"").decode(errors="replace")
                    if topic in answers.reply_topics:
                        self.topics[offset] = topic
                    else:
                        self.wrong[offset] = (
                            f"its scores are asked for in topic {topic!r}, not one of request.reply_topics"
                        )

    def of(self, snapshots: pa.Table | None) -> dict[Request, Outgoing]:
        """The replies to those of ``snapshots``' requests that want one; the same bytes for the same snapshot."""
        if not self.topics or snapshots is None or snapshots.num_rows == 0:
            return {}
        made = {}
        for start, end in pairwise([*request_starts(snapshots, SOURCE_COLUMNS), snapshots.num_rows]):
            mine = snapshots.slice(start, end - start)
            (request,) = requests_of(mine, SOURCE_COLUMNS)
            if request[0] in self.topics:
                made[request] = _reply(self.topics[request[0]], mine)
        return made

    def like(self, request: Request, first: pa.Table) -> Outgoing | None:
        """The reply to ``request`` with the scores of snapshot ``first``; None where it wants none."""
        topic = self.topics.get(request[0])
        return None if topic is None else _reply(topic, first)

    def too_large(self, reply: Outgoing) -> str | None:
        """Why ``reply`` cannot be sent; None where it can."""
        size = wire_size(reply)
        return _too_large("list of scores", size, self._limit) if size > self._limit else None


@dataclass(frozen=True, slots=True)
class Fitted:
    """The messages of snapshots, the rows in them, None where there are none, and why the other requests are not."""

    messages: list[Outgoing]
    snapshots: pa.Table | None
    large: dict[Request, str]


def fitted(partition: int, snapshots: pa.Table, answers: Answers, replies: Replies) -> Fitted:
    """``snapshots`` as messages to ``partition``, without the requests whose snapshot or reply is too large."""
    messages = _messages(partition, snapshots, answers)
    limit = answers.snapshot_limit
    large = {
        request: _too_large("snapshot", wire_size(_message(partition, unit, answers)), limit)
        for message in messages
        for unit in units_above(message, limit)
        for request in requests_of(unit, SOURCE_COLUMNS)
    }
    for request, reply in replies.of(snapshots).items():
        if (why := replies.too_large(reply)) is not None:
            large.setdefault(request, why)
    if large:
        snapshots = without(snapshots, large, SOURCE_COLUMNS)
        messages = _messages(partition, snapshots, answers)
    return Fitted(messages, snapshots, large)


def _messages(partition: int, snapshots: pa.Table, answers: Answers) -> list[Outgoing]:
    """Whole requests together, several to a message."""
    if snapshots.num_rows == 0:
        return []
    starts = request_starts(snapshots, SOURCE_COLUMNS)
    cuts = [0]
    for start, end in pairwise([*starts, snapshots.num_rows]):
        if end - cuts[-1] > answers.rows_per_message and start > cuts[-1]:
            cuts.append(start)
    cuts.append(snapshots.num_rows)
    return [_message(partition, snapshots.slice(a, b - a), answers) for a, b in pairwise(cuts)]


def _message(partition: int, snapshots: pa.Table, answers: Answers) -> Outgoing:
    return Outgoing(answers.snapshots_topic, wire.encode(snapshots), partition=partition)


def _reply(topic: str, snapshot: pa.Table) -> Outgoing:
    """The scores of one request."""
    rows: Sequence[Mapping[str, object]] = snapshot.select(REPLY_COLUMNS).to_pylist()
    answer = {
        "request_id": rows[0]["request_id"],
        "model_version": rows[0]["model_version"],
        "items": [item["item_id"] for item in rows],
        "scores": [item["score"] for item in rows],
    }
    return Outgoing(topic, json.dumps(answer).encode(), key=str(rows[0]["request_id"]).encode())


def _too_large(what: str, size: int, limit: int) -> str:
    return (
        f"the request's {what} would be {size} bytes, {limit} are allowed: ask for fewer candidates, or raise "
        "broker.max_message_bytes"
    )
