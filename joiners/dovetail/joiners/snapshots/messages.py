"""The messages that answer requests: snapshots, several requests to one, and scores for those who asked for them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from dovetail.joiners.snapshots.units import Request, by_row, request_starts, requests_of, without
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.fitting import units_above, wire_size
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS
from dovetail.platform.rows.wire import DeadLetter
from dovetail.platform.stage import Outgoing, Poll

__all__ = [
    "CORRELATION_HEADER",
    "REPLY_AS_HEADER",
    "REPLY_COLUMNS",
    "REPLY_HEADER",
    "SNAPSHOT_FORM",
    "Answers",
    "Fitted",
    "Replies",
    "fitted",
]

#: A request message with this header gets an answer in the topic the header names, which must be one of
#: ``request.reply_topics``: a JSON message with its scores, or with why it is refused.
REPLY_HEADER = "dovetail-reply-to"
#: The value of this header comes back with the answer, so that who asked knows whose it is.
CORRELATION_HEADER = "dovetail-correlation"
#: With this header and value, the answer is the request's snapshot, an Arrow stream of its rows.
REPLY_AS_HEADER, SNAPSHOT_FORM = "dovetail-reply-as", b"snapshot"
#: The columns of a snapshot that a reply is made of.
REPLY_COLUMNS = ("request_id", "item_id", "score", "model_version")


@dataclass(frozen=True, slots=True)
class Answers:
    """Where answers go: snapshots, dead letters, the topics that scores may be asked for in; and their largest size.

    Whole requests go together in a message, several as long as it has no more than ``rows_per_message`` rows; whole
    messages are answered together, several as long as they ask for no more than ``rows_per_commit`` candidates.
    """

    snapshots_topic: str
    dead_letter_topic: str
    reply_topics: Collection[str] = ()
    max_message_bytes: int = 16 << 20
    rows_per_message: int = 20_000
    rows_per_commit: int = 10_000

    @property
    def snapshot_limit(self) -> int:
        """The largest message of one snapshot, in bytes: what later stages add to its rows must fit, too."""
        return self.max_message_bytes // 8 * 7


@dataclass(frozen=True, slots=True)
class _Asked:
    """How a message wants its requests answered: in which topic, under which name, and whether as snapshots."""

    topic: str
    name: bytes | None
    whole: bool

    def outgoing(self, value: bytes, key: bytes | None) -> Outgoing:
        headers = () if self.name is None else ((CORRELATION_HEADER, self.name),)
        return Outgoing(self.topic, value, key=key, headers=headers)


class Replies:
    """The requests of a poll that want an answer sent, and what is wrong with how some ask."""

    def __init__(self, poll: Poll, answers: Answers) -> None:
        self._limit = answers.max_message_bytes
        #: By offset: how to answer.
        self._asked: dict[int, _Asked] = {}
        #: By offset: why nothing is sent there, where a header names a topic that is not declared.
        self.wrong: dict[int, str] = {}
        # Asked for twice: for its size, and to be sent.
        self._made: dict[Request, Outgoing] = {}
        for index, headers in enumerate(poll.headers):
            if not headers:
                continue
            said = dict(headers)
            if REPLY_HEADER not in said:
                continue
            # A header may have no value, whatever its type says.
            offset, topic = int(poll.offsets[index]), (said[REPLY_HEADER] or b"").decode(errors="replace")
            if topic in answers.reply_topics:
                whole = said.get(REPLY_AS_HEADER) == SNAPSHOT_FORM
                self._asked[offset] = _Asked(topic, said.get(CORRELATION_HEADER), whole)
            else:
                self.wrong[offset] = f"its scores are asked for in topic {topic!r}, not one of request.reply_topics"

    def of(self, snapshots: pa.Table | None) -> dict[Request, Outgoing]:
        """The replies to those of ``snapshots``' requests that want one; the same bytes for the same snapshot."""
        if not self._asked or snapshots is None or snapshots.num_rows == 0:
            return {}
        made = {}
        for start, end in pairwise([*request_starts(snapshots, SOURCE_COLUMNS), snapshots.num_rows]):
            mine = snapshots.slice(start, end - start)
            (request,) = requests_of(mine, SOURCE_COLUMNS)
            if request[0] in self._asked:
                if request not in self._made:
                    self._made[request] = _reply(self._asked[request[0]], mine)
                made[request] = self._made[request]
        return made

    def part_of(self, snapshots: pa.Table) -> pa.Table:
        """The columns of ``snapshots`` that replies are made of: all, where somebody wants a whole snapshot."""
        if any(asked.whole for asked in self._asked.values()):
            return spread(snapshots.drop_columns([name for name in OWN_COLUMNS if name in snapshots.column_names]))
        return snapshots.select([*REPLY_COLUMNS, *SOURCE_COLUMNS])

    def wanted(self, request: Request) -> bool:
        """Whether ``request`` wants an answer sent."""
        return request[0] in self._asked

    def like(self, request: Request, first: pa.Table) -> Outgoing | None:
        """The reply to ``request`` with the scores of snapshot ``first``; None where it wants none."""
        asked = self._asked.get(request[0])
        return None if asked is None else _reply(asked, first)

    def refusals(
        self, dead: Sequence[DeadLetter], requests: pa.Table, refused: Mapping[Request, str]
    ) -> list[Outgoing]:
        """The replies to what is not answered: to messages that are ``dead`` whole, and to requests ``refused``."""
        if not self._asked:
            return []
        told: list[tuple[int, object, str]] = []
        told += [(letter.offset, None, letter.reason) for letter in dead]
        ids = requests.column("request_id").to_pylist()
        offsets = requests.column(OWN_COLUMNS[1]).to_pylist()
        told += [(offsets[row], ids[row], reason) for row, reason in by_row(requests, refused).items()]
        return [
            self._asked[offset].outgoing(
                json.dumps({"request_id": name, "error": reason}).encode(), None if name is None else str(name).encode()
            )
            for offset, name, reason in told
            if offset in self._asked
        ]

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


def _reply(asked: _Asked, snapshot: pa.Table) -> Outgoing:
    """The scores of one request, or its snapshot."""
    key = str(snapshot.column("request_id")[0].as_py()).encode()
    if asked.whole:
        kept = spread(snapshot.drop_columns([name for name in OWN_COLUMNS if name in snapshot.column_names]))
        return asked.outgoing(wire.encode(kept), key)
    answer = {
        "request_id": snapshot.column("request_id")[0].as_py(),
        "model_version": snapshot.column("model_version")[0].as_py(),
        "items": _values(snapshot.column("item_id")),
        "scores": _values(snapshot.column("score")),
    }
    return asked.outgoing(json.dumps(answer).encode(), key)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column as :meth:`pyarrow.ChunkedArray.to_pylist` gives it; numbers in a tenth of the time."""
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        numbers: list[Any] = column.to_numpy().tolist()
        return numbers
    values: list[Any] = column.to_pylist()
    return values


def _too_large(what: str, size: int, limit: int) -> str:
    return (
        f"the request's {what} would be {size} bytes, {limit} are allowed: ask for fewer candidates, or raise "
        "broker.max_message_bytes"
    )
