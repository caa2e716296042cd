"""The answers to a poll of requests, and the poll in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dovetail.joiners.snapshots.units import Request, requests_of
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.intake import Received
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing, Poll

__all__ = ["Answered", "Counts"]


@dataclass(frozen=True, slots=True)
class Answered:
    """A poll's answers.

    ``messages`` are the snapshots to publish; ``scored``, what replies are made of, for the answered requests, in
    order, None when there are none; ``refused``, why the others are refused; ``candidates``, how many rows there were.
    """

    messages: list[Outgoing]
    scored: pa.Table | None
    refused: dict[Request, str]
    candidates: int

    @property
    def requests(self) -> set[Request]:
        """The answered requests."""
        return set() if self.scored is None else requests_of(self.scored, SOURCE_COLUMNS)


class Counts(NamedTuple):
    """A poll in numbers: requests that became dead letters, and duplicates."""

    received: Received
    answered: Answered
    dead: int
    duplicates: int

    def accounts(self, scope: str, poll: Poll) -> list[Account]:
        """Requests and candidates by outcome."""
        requests = self.received.table.num_rows + self.received.dead_rows
        scored = 0 if self.answered.scored is None else self.answered.scored.num_rows
        counts = {
            (scope, READ): requests,
            (scope, "snapshotted"): requests - self.dead - self.duplicates,
            (scope, "dead_letter"): self.dead,
            (scope, "duplicate"): self.duplicates,
            (f"{scope}.candidates", READ): self.answered.candidates,
            (f"{scope}.candidates", "snapshotted"): scored,
            (f"{scope}.candidates", "dead_letter"): self.answered.candidates - scored,
        }
        return [Account(stage, poll.topic, poll.partition, what, rows) for (stage, what), rows in counts.items()]
