"""Settings of labels in the registry: each under a number of its own, and how kinds are read by compare-and-set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dovetail.platform.stores.registry.store import Registry


def test_workers_that_register_at_once_get_numbers_of_their_own(registries: list[Registry]) -> None:
    def put(worker: int) -> None:
        for settings in (worker, 100, 10 + worker, worker):
            registries[worker].add_label_settings(2**62 + settings, f"settings {settings}")

    with ThreadPoolExecutor(len(registries)) as pool:
        list(pool.map(put, range(len(registries))))
    found = registries[0].label_settings()
    assert [one.number for one in found] == list(range(1, 10))
    assert {one.fingerprint - 2**62: one.text for one in found} == {
        settings: f"settings {settings}" for settings in (0, 1, 2, 3, 10, 11, 12, 13, 100)
    }


def test_how_kinds_are_read_is_put_where_it_is_still_as_known(registries: list[Registry]) -> None:
    mine, theirs = registries[:2]
    assert mine.put_label_logs({"click": "a", "order": "a"}, {}) == []
    known = theirs.label_logs()
    assert mine.put_label_logs({"click": "b"}, known) == []
    assert theirs.put_label_logs({"click": "c", "order": "c"}, known) == ["click"]  # and nothing was changed
    assert theirs.label_logs() == {"click": "b", "order": "a"}
    assert theirs.put_label_logs({"click": "b"}, known) == []
