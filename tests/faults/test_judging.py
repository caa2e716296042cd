"""What clients were told is judged by what there is: a row that is lost or counts twice, an answer that is not kept."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from dovetail.platform.rows import wire
from tests.faults.over_http import Acknowledged, Kept, Place, bits_of, judge_told
from tests.faults.verdict import Verdict

ROWS = [Acknowledged("events", (0, 0), b"c/0", b"{1}"), Acknowledged("events", (1, 0), b"c/1", b"{2}")]


def answer(score: float) -> bytes:
    return wire.encode(pa.table({"item_id": [7], "score": pa.array([score], pa.float32())}))


#: The second call was sent twice; one of the two is the event.
MESSAGES: dict[Place, tuple[bytes | None, bytes | None]] = {
    (0, 0): (b"{1}", b"c/0"),
    (1, 0): (b"{2}", b"c/1"),
    (1, 1): (b"{2}", b"c/1"),
}
ARCHIVED = Counter({(0, 0): 1, (1, 0): 1})


def judged(messages: dict[Place, tuple[bytes | None, bytes | None]], archived: Counter[Place], told: bytes) -> Verdict:
    verdict = Verdict()
    kept = Kept({"events": messages}, {"events": archived}, {"r": bits_of(answer(0.5))})
    judge_told(ROWS, {"r": told}, kept, verdict)
    return verdict


def test_what_is_as_it_was_told_passes() -> None:
    verdict = judged(MESSAGES, ARCHIVED, answer(0.5))
    assert verdict.wrong == []
    assert verdict.counts == {"acknowledged rows": 2, "answers": 1, "rows sent again": 1}


@pytest.mark.parametrize(
    ("messages", "archived", "told", "wrong"),
    [
        (MESSAGES | {(0, 0): (b"{9}", b"c/0")}, ARCHIVED, answer(0.5), "not where they are said to be"),
        ({k: v for k, v in MESSAGES.items() if k != (0, 0)}, ARCHIVED, answer(0.5), "not where they are said to be"),
        (MESSAGES, ARCHIVED + Counter({(1, 1): 1}), answer(0.5), "do not count once"),
        (MESSAGES, Counter({(1, 0): 1}), answer(0.5), "do not count once"),
        (MESSAGES, ARCHIVED, answer(0.50000006), "not what the snapshot says"),
    ],
)
def test_what_is_not_is_noticed(
    messages: dict[Place, tuple[bytes | None, bytes | None]], archived: Counter[Place], told: bytes, wrong: str
) -> None:
    assert any(wrong in said for said in judged(messages, archived, told).wrong)
