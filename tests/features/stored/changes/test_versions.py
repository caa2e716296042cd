"""Versions of batch views: what cannot be computed is said and not kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.app.jobs import batch_versions
from dovetail.features import load
from dovetail.platform.errors import StoreError
from tests.features.stored.stored_world import START, World


def test_a_version_waits_for_its_tables(world: World) -> None:
    versions = batch_versions(world.project, world.stores)
    items, away = world.folder / "items.parquet", world.folder / "away.parquet"
    items.rename(away)
    with pytest.raises(
        StoreError,
        match=r"batch view profile cannot be computed: offline table items: .*items\.parquet does not exist; write it",
    ):
        versions.table("profile", START)
    assert world.stores.registry.versions("profile") == []
    away.rename(items)
    assert versions.table("profile", START).num_rows == 3
    assert [version.version_us for version in world.stores.registry.versions("profile")] == [START]


def test_tables_are_found_from_any_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    versions = batch_versions(load(Path(), name="shop"), world.stores)
    monkeypatch.chdir(tmp_path)
    assert versions.table("profile", START).num_rows == 3


def test_a_version_without_value_says_of_which_view(world: World) -> None:
    world.write("profile", "SELECT item_id, 7 // item_id AS category FROM items")
    versions = batch_versions(world.load(), world.stores)
    with pytest.raises(StoreError, match=r"profile cannot be computed: .*profile\.sql:1: .* Division by zero"):
        versions.table("profile", START)
    assert world.stores.registry.versions("profile") == []
