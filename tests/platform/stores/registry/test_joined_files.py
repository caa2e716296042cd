"""What counts of a join is changed by compare-and-set, whoever else does so at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dovetail.platform.stores.registry.results.joined_files import JoinedFile
from dovetail.platform.stores.registry.store import Registry


def files_of(worker: int) -> list[JoinedFile]:
    """Those of a worker: one that all have, and one of its own."""
    return [JoinedFile("all", 1 + worker), JoinedFile(f"own-{worker}", 1, f"draft-{worker}")]


def test_of_all_that_have_seen_the_same_one_is_taken(registries: list[Registry]) -> None:
    known: list[JoinedFile] = []
    for _ in range(5):

        def put(worker: int, known: list[JoinedFile] = known) -> bool:
            return registries[worker].joins.replace("out", known, files_of(worker))

        with ThreadPoolExecutor(len(registries)) as pool:
            taken = list(pool.map(put, range(len(registries))))
        assert taken.count(True) == 1
        known = registries[0].joins.files("out")
        assert known == files_of(taken.index(True))
        assert registries[0].joins.replace("out", known, [])
        known = []
        assert registries[1].joins.files("out") == known


def test_folders_are_told_apart(registries: list[Registry]) -> None:
    first, second, *_ = registries
    assert first.joins.replace("one", [], files_of(1))
    assert second.joins.replace("two", [], [JoinedFile("gone", 0)])
    assert not second.joins.replace("one", [], files_of(2)), "it has other files by now"
    assert second.joins.files("one") == files_of(1)
    assert first.joins.unsettled() == ["one", "two"]
    assert first.joins.replace("two", [JoinedFile("gone", 0)], [])
    assert second.joins.unsettled() == ["one"]
