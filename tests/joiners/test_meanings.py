"""Label meanings: their marks, which one a row is judged by, and what is kept for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.joiners.meanings.known import UNMARKED, Meanings, marks_of
from dovetail.joiners.meanings.label_meaning import LabelMeaning, meaning_of
from dovetail.joiners.snapshots.shape import MEANING_COLUMN
from dovetail.platform.config.policy import LabelConfig
from dovetail.platform.errors import StoreError
from dovetail.platform.stores.registry.store import Registry
from tests.joiners.values.value_worlds import SCHEMAS

STREAMS: dict[str, Any] = {"exposure": {}, "order": {"values": {"amount": "sum", "note": "last"}}}


def config(window: str = "10m", streams: dict[str, Any] | None = None, **more: Any) -> LabelConfig:
    given = {"window": window, "positive": "order", "streams": streams or STREAMS, **more}
    return LabelConfig.model_validate(given)


def meaning(*args: Any, **more: Any) -> LabelMeaning:
    return meaning_of(config(*args, **more), SCHEMAS)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")


def put(registry: Registry, one: LabelMeaning) -> None:
    registry.add_label_settings(one.fingerprint, one.text)


def test_a_text_says_all_there_is() -> None:
    days = {"policy": "return_days", "window": "1h", "days": [1, 2], "positive": "order"}
    mine = config(corrections="5m", max_early="7s", targets={"days": days})
    said = meaning_of(mine, SCHEMAS)
    again = LabelMeaning.parsed(said.text)
    assert again == said
    assert again.targets["days"].horizons_us == mine.targets["days"].horizons_us
    assert again.targets[""].horizons_us == mine.horizons_us
    assert again.early_us == 7_000_000
    assert [value.type for value in again.rules["order"].values] == [pa.decimal128(38, 2), pa.string()]


def test_a_mark_is_of_what_samples_are_made_by() -> None:
    assert meaning().fingerprint == meaning("600s", max_early="0s", samples_topic="elsewhere").fingerprint
    turned = {"exposure": {}, "order": {"values": {"note": "last", "amount": "sum"}}}
    others = [
        meaning("11m"), meaning(max_early="1s"), meaning(corrections="1m"), meaning(streams=turned),
        meaning(streams={**STREAMS, "undo": {}}), meaning(targets={"more": {"window": "1m", "positive": "order"}}),
    ]  # fmt: skip
    assert len({one.fingerprint for one in [meaning(), *others]}) == 7
    assert all(0 < one.fingerprint < 2**63 for one in others)


def test_rows_are_judged_by_their_mark(registry: Registry) -> None:
    first, second = meaning(), meaning("20m", targets={"more": {"window": "1m", "positive": "order"}})
    for one in (first, second, first):
        put(registry, one)
    assert [settings.number for settings in registry.label_settings()] == [1, 2]
    known = Meanings.registered(registry, second, shared=False)
    assert known.of(first.fingerprint) == first
    assert known.of(second.fingerprint) == second
    assert known.of(UNMARKED) == first
    assert known.of(first.fingerprint, "more") == second  # the first that has it
    with pytest.raises(StoreError, match="the registry does not have"):
        known.of(12345)


def test_rows_of_another_scene_are_refused_with_its_name(registry: Registry) -> None:
    mine, theirs = (meaning_of(config(), SCHEMAS, scene) for scene in ("home", "feed"))
    put(registry, theirs)
    known = Meanings.registered(registry, mine, shared=False)
    assert known.all() == (mine,)
    with pytest.raises(StoreError, match=r"by the scene feed .*rename \[scenes\.home\] to \[scenes\.feed\] again"):
        known.of(theirs.fingerprint)
    unnamed = Meanings.registered(registry, meaning(), shared=False)
    with pytest.raises(StoreError, match=r"that the scene without a name reads were made by the scene feed .*: give"):
        unnamed.of(theirs.fingerprint)
    with pytest.raises(StoreError, match="the registry does not have"):
        known.of(12345)


def test_what_others_register_is_looked_for(registry: Registry) -> None:
    mine = meaning(streams={"exposure": {}, "order": {}})
    put(registry, mine)
    known = Meanings.registered(registry, mine, shared=True)
    schema, labels = SCHEMAS["order"], config(streams={"exposure": {}, "order": {}})
    before = known.needed("order", schema, labels)
    assert not before.rule.whole
    theirs = meaning("3h", corrections="1h", max_early="2d")
    put(registry, theirs)
    assert known.of(theirs.fingerprint) == theirs
    after = known.needed("order", schema, labels)
    assert [value.column for value in after.rule.values] == ["amount", "note"]
    assert after.useful_us - before.useful_us == (4 * 60 - 10) * 60_000_000 + 86_400_000_000
    assert known.in_force(labels).held_topics == ("samples-held-1",)
    assert labels.held_topics == ()


def test_rows_without_a_mark_say_so() -> None:
    rows = pa.table({"request_id": ["a", "b"]})
    assert marks_of(rows).tolist() == [UNMARKED, UNMARKED]
    marked = rows.append_column(MEANING_COLUMN, pa.array([5, None], pa.int64()))
    assert marks_of(marked).tolist() == [5, UNMARKED]
