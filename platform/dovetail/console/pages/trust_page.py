"""The page of trust: the audit's equations and the verdicts that were given, with what each exception means."""

from __future__ import annotations

from typing import Any

from dovetail.app.reports.verdict_log import AUDIT, CONSISTENCY, given_verdicts
from dovetail.app.reports.verdicts import audit_books
from dovetail.console.looked import Looked

__all__ = ["MEANINGS", "trust_page"]

#: The outcomes of rows that did not simply become what they were meant for, in a sentence each.
MEANINGS = {
    "dead_letter": "could not be used; it stands in the dead-letter topic with the reason",
    "duplicate": "another label of its kind came first for the same request and item, or the row was read before",
    "late": "it took effect after every window had passed, so no sample could ask for it",
    "early": "it happened too long before its request to be of it",
    "unexposed": "the candidate was not seen in time, so nothing is learnt from it",
    "unexposed_sampled": "the candidate was not seen, and was drawn as a negative all the same",
    "down_sampled": "a negative that was not drawn; those that were weigh more",
    "corrected": "it came after the first sample, and a second one says so",
    "retracted": "it was taken back by a label of another kind",
    "unattributed": "it names no request, and none was found that it may belong to",
    "orphaned": "no snapshot has its request, and every window has passed",
    "retired_scene": "its request was of a scene that dovetail.toml does not have any more",
    "pending": "its window has not passed yet, or nothing has asked for it",
    "waiting": "a later look at its window is to say",
    "lost": "it should be in a sample and is not: this must not be",
    "surplus": "a sample stands there twice, or of nothing: this must not be",
}
_HISTORY = 30


def trust_page(looked: Looked) -> dict[str, Any]:
    """The books now, and the logged verdicts: the newest whole, those before by time."""
    stores = looked.stores
    accounts = stores.accounts()
    # A trainer keeps its accounts with its checkpoint; of a model on shards the registry has the gatherer's.
    sharded = looked.project.config.trainer.sharded
    stages = {account.stage for account in accounts} - {"trainer"} | ({"trainer"} if sharded else set())
    books = audit_books(looked.project, stores, accounts, stages, settled=False)
    audits = given_verdicts(stores.registry, AUDIT, _HISTORY)
    consistencies = given_verdicts(stores.registry, CONSISTENCY, _HISTORY)
    return {"books": books, "audits": audits, "consistencies": consistencies, "meanings": MEANINGS}
