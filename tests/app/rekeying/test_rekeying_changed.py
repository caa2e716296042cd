"""A re-keyed stream that has rows stays declared as it is: published again, a row must come to where it came before."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.features.stored.registration import changes
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import ViewCommit
from tests.app.small_project import TOML, VIEW, write_project

REKEYED = """
[streams.other]
key = "user_id"

[rekeyed.again]
stream = "behaviour"
key = "user_id"
partitions = 2
topic = "again"
"""
OTHER = "CREATE TABLE other (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);"
CHANGES = {
    'stream = "behaviour"': 'stream = "other"',
    'key = "user_id"\npartitions': 'key = "event_time"\npartitions',
    "partitions = 2": "partitions = 3",
    'topic = "again"': 'topic = "again2"',
}


def declare(folder: Path, text: str) -> None:
    if not folder.exists():
        write_project(folder, TOML)
    (folder / "dovetail.toml").write_text(TOML + text)
    (folder / "sql" / "activity.sql").write_text(VIEW.replace("FROM behaviour", "FROM again"))
    (folder / "sql" / "other.sql").write_text(OTHER)


def start(folder: Path) -> None:
    assemble(load(folder), roles=["rekey"]).stores.close()


@pytest.mark.parametrize("before", CHANGES, ids=["stream", "key", "partitions", "topic"])
def test_what_decides_where_its_rows_go_does_not_change(tmp_path: Path, before: str) -> None:
    declare(tmp_path / "project", REKEYED.replace(before, CHANGES[before]))
    start(tmp_path / "project")  # nothing has been re-keyed yet: it may still change
    declare(tmp_path / "project", REKEYED)
    start(tmp_path / "project")
    stores = open_stores(load(tmp_path / "project").config)
    stores.registry.commit("rekey.again", 1, expected=0, progress=Progress(7), accounts=[])
    stores.close()
    start(tmp_path / "project")
    declare(tmp_path / "project", REKEYED.replace(before, CHANGES[before]))
    line = (TOML + REKEYED).splitlines().index("[rekeyed.again]") + 1
    with pytest.raises(DefinitionError) as refused:
        start(tmp_path / "project")
    assert (
        f"dovetail.toml:{line}: [rekeyed.again] is declared otherwise than what made a topic of 7 messages (~ "
        in str(refused.value)
    )
    assert "under another name" in str(refused.value)


def test_the_difference_is_shown_by_what_was_declared(tmp_path: Path) -> None:
    declare(tmp_path / "project", REKEYED)
    start(tmp_path / "project")
    declare(tmp_path / "project", REKEYED.replace("partitions = 2", "partitions = 3"))
    project = load(tmp_path / "project")
    stores = open_stores(project.config)
    found = {change.name: change for change in changes(project, stores.registry, stores.online)}
    stores.close()
    assert list(found["rekeyed.again"].columns) == ["~ partitions 2 -> 3"]
    assert not found["rekeyed.again"].refused


def test_the_lateness_of_what_enriches_it_is_said_in_words_and_with_a_way_that_is_there(tmp_path: Path) -> None:
    folder, late = tmp_path / "project", '[streams.behaviour]\nallowed_lateness = "7m"\n'
    enriched = REKEYED.replace('topic = "again"', 'topic = "again"\nenrich = ["seen"]')
    declare(folder, enriched)
    (folder / "sql" / "seen.sql").write_text(VIEW.replace("AS events", "AS seen_events"))
    start(folder)
    stores = open_stores(load(folder).config)
    stores.registry.commit("rekey.again", 1, expected=0, progress=Progress(7), accounts=[])
    stores.online.commit(0, [ViewCommit("seen", 0, Progress(1), {})], [])
    (folder / "dovetail.toml").write_text(TOML.replace("[streams.behaviour]\n", late) + enriched)
    found = {change.name: change for change in changes(load(folder), stores.registry, stores.online)}
    stores.close()
    assert list(found["rekeyed.again"].columns) == ["~ allowed_lateness of the stream of view seen 1 h -> 7 min"]
    with pytest.raises(DefinitionError) as refused:
        start(folder)
    assert "allowed_lateness: 1 h -> 7 min" in str(refused.value)
    assert "; set [streams.behaviour] allowed_lateness back, and write the new one to seen_v2.sql" in str(refused.value)
    assert "again has its values in every row that is there" in str(refused.value)
    assert "--replace" not in str(refused.value)
