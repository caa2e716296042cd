"""The first look: how many probes there are, of which keys and when, and a sample of the events.

Requests are read whole, events in part. What comes back decides how rows are cut, which changes no value, and which
events are nobody's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.one_view import earliest_read, times_of, view_parts
from dovetail.features.batch.pieces import KEY_FILTER
from dovetail.features.batch.views import versions
from dovetail.features.duck.scratch import KeyHash
from dovetail.spark.frames import RESULT, Frame
from dovetail.spark.routing import Sampled
from dovetail.spark.sent import EventPart, RequestPart, SentWork, items_of, task_folder, told

__all__ = ["Found", "Survey", "found_of"]

#: Sampled rows of a view, of requests and of events each; and of an item at least.
_SAMPLE = 1 << 20
_LEAST = 64


@dataclass(slots=True)
class Found:
    """The findings of a survey: sampled probes and events by view, keys that probes have, and versions that are read.

    ``keys`` is bool ``[2^24]`` by the low bits of a key's hash.
    """

    probes: dict[str, list[Sampled]] = field(default_factory=dict)
    events: dict[str, list[Sampled]] = field(default_factory=dict)
    keys: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    versions: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Survey:
    """The task: ``items`` are all request parts, and those event parts that are looked into."""

    work: SentWork
    items: Sequence[RequestPart | EventPart]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(0, self._frames(given))

    def _frames(self, given: Iterator[pa.RecordBatch]) -> Iterator[Frame]:
        found = Found()
        hashes = {name: KeyHash(view.entity_types, 1) for name, view in self.work.stream.items()}
        with task_folder() as folder, self.work.within(folder):
            for _, item in items_of(given, self.items):
                if isinstance(item, RequestPart):
                    self._requests(item, hashes, found)
                else:
                    self._events(item, hashes[item.view], found)
        packed = {name: zlib.compress(np.packbits(keys).tobytes(), 1) for name, keys in found.keys.items()}
        yield Frame.of(0, RESULT, (found.probes, found.events, packed, found.versions))

    def _requests(self, item: RequestPart, hashes: Mapping[str, KeyHash], found: Found) -> None:
        seen: dict[str, list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]] = {}
        for table in self.work.requests.split(item.day, item.split):
            times = times_of(table, "request_time")
            for name, batch in self.work.batch.items():
                found.versions |= {(name, version) for version in np.unique(versions(batch, times)).tolist()}
            for name, view in self.work.stream.items():
                keys = hashes[name].of([table.column(column) for column in view.entity])
                found.keys.setdefault(name, np.zeros(int(KEY_FILTER) + 1, dtype=np.bool_))[keys & KEY_FILTER] = True
                seen.setdefault(name, []).append((keys, times))
        of = sum(isinstance(other, RequestPart) for other in self.items)
        for name, parts in seen.items():
            found.probes.setdefault(name, []).append(_some_of(parts, of))

    def _events(self, item: EventPart, hashes: KeyHash, found: Found) -> None:
        view = self.work.stream[item.view]
        of = sum(isinstance(other, EventPart) and other.view == item.view for other in self.items)
        reach, parts, rows = earliest_read(view, self.work.low_us), [], 0
        for part in view_parts(view, item.branch, item.files, reach, self.work.high_us, self.work.visibility):
            keys = hashes.of([part.column(column) for column in view.entity])
            parts.append((keys, times_of(part, view.stream.event_time)))
            rows += part.num_rows
            if rows >= max(_LEAST, _SAMPLE // of):
                break
        if parts:
            some = _some_of(parts, of)
            whole = max(rows, item.files.rows(reach, self.work.high_us))
            found.events.setdefault(item.view, []).append(replace(some, weight=whole / max(1, len(some.hashes))))


def _some_of(parts: Sequence[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]], of: int) -> Sampled:
    """Evenly spaced rows of an item's ``parts``, as many as one of so many items may send."""
    hashes, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    count = min(len(hashes), max(_LEAST, _SAMPLE // of))
    chosen = np.unique(np.linspace(0, len(hashes) - 1, count, dtype=np.int64))
    return Sampled(hashes[chosen], times[chosen], len(hashes) / max(1, count))


def found_of(frames: Sequence[Frame], totals: Mapping[str, int]) -> Found:
    """All tasks' findings together; ``totals`` has the events of each view, by which those sampled are weighed.

    Events of keys that no probe has are left out.
    """
    whole = Found()
    for frame in frames:
        probes, events, packed, used = frame.value()
        for name, keys in packed.items():
            bits = np.unpackbits(np.frombuffer(zlib.decompress(keys), dtype=np.uint8)).astype(np.bool_)
            whole.keys[name] = bits | whole.keys[name] if name in whole.keys else bits
        for name, sampled in probes.items():
            whole.probes.setdefault(name, []).extend(sampled)
        for name, sampled in events.items():
            whole.events.setdefault(name, []).extend(sampled)
        whole.versions |= used
    for name, parts in whole.events.items():
        # An item's rows are known by days and files only; all of them together are known better.
        scale = totals[name] / max(1.0, sum(len(part.hashes) * part.weight for part in parts))
        wanted = [whole.keys[name][part.hashes & KEY_FILTER] for part in parts] if name in whole.keys else []
        whole.events[name] = [
            Sampled(part.hashes[mine], part.times[mine], part.weight * scale)
            for part, mine in zip(parts, wanted, strict=False)
        ]
    return whole
