"""Data quality judged in the worker: each window of what is archived, by the rules of the batch, when it is over.

The archive keeps a sketch of each window with its files (``sketches.py``), so what is judged is every archived row
once, also where a worker was killed in the middle of the window, or several share it. Which worker judges is decided by
the registry: one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from dovetail.app.quality.alerts import Alert, Quality, Source, judge
from dovetail.app.quality.profiles import Profile
from dovetail.app.quality.project_sources import judged_fields, served_of, tables_of
from dovetail.app.quality.sketches import merged_sketches, profiles_of_sketches, sketches_by_window
from dovetail.app.quality.telling import log_alerts, post_alerts
from dovetail.app.quality.webhook import Webhook
from dovetail.features import Project
from dovetail.platform.archive.writer import Dataset
from dovetail.platform.clock import Clock
from dovetail.platform.stores.registry.archived.window_sketches import AlertCount, WindowChange, WindowSketch
from dovetail.platform.stores.registry.store import Registry

__all__ = ["TABLES", "LiveQuality", "sketched"]

#: In the place of a dataset: the offline tables, which are judged by the age of their newest row.
TABLES = "@tables"
#: Windows of a dataset that are judged in one look: who was away for long catches up in several.
_AT_ONCE = 24
#: Says where a topic's partition ends.
_Ends = Callable[[str, int], int | None]


def sketched(project: Project, dataset: Dataset) -> Dataset:
    """``dataset``, whose archive keeps a sketch of the columns that are judged; one that is not judged as it is."""
    fields = judged_fields(project).get(dataset.name)
    if fields is None:
        return dataset
    config, columns = project.config.quality, [field.name for field in fields]

    def sketch(partition: int, rows: pa.Table) -> WindowChange:
        found = sketches_by_window(rows, columns, dataset.day_of, window_us=config.window, most_rows=config.live_rows)
        return WindowChange([WindowSketch(dataset.name, partition, *each) for each in found], merged_sketches)

    return replace(dataset, sketch=sketch)


class LiveQuality:
    """Judges windows as they end.

    A window of a dataset has ended when event time, by the newest row of any dataset, is ``grace`` past it, and the
    archive has what the dataset's topic held by then. Where that is near the clock, the clock counts, too, so that a
    window ends also when all producers stop. Samples are late by their label window: theirs end by their own newest
    row.
    """

    def __init__(
        self,
        project: Project,
        registry: Registry,
        archived: Sequence[Dataset],
        clock: Clock,
        ends: Callable[[], _Ends],
        webhook: Webhook | None = None,
    ) -> None:
        """``archived``: the datasets that are :func:`sketched`; ``ends`` makes what says where their topics end."""
        self._project, self._registry, self._clock, self._ends = project, registry, clock, ends
        self._config, self._webhook = project.config.quality, webhook
        self._datasets = {dataset.name: dataset for dataset in archived if dataset.sketch is not None}
        #: By dataset and window that has ended, where its topic ended when that was seen first.
        self._marks: dict[tuple[str, int], Mapping[int, int]] = {}
        self._profiles: dict[tuple[str, int], list[Profile]] = {}

    def look(self) -> list[Quality]:
        """Judge the windows that have ended since, and tell of their alerts; what was judged here.

        Raises:
            StoreError: the registry cannot be reached.
            WireError: an offline table cannot be read.
        """
        windows = {name: each for name, each in self._registry.windows.windows().items() if name in self._datasets}
        if not windows:
            return []
        length, first = self._config.window, min(min(each) for each in windows.values())
        judged, now = self._registry.windows.newest_judged(), self._now(windows)
        found: list[Quality] = []
        for name in (*self._datasets, TABLES):
            own = max((newest for _, newest in windows.get(name, {}).values()), default=None)
            upto = now if not served_of(name) else own
            if upto is None or (name != TABLES and name not in windows):
                continue
            # The first window of all was begun before anybody counted.
            begin = judged.get(name, first) + length
            for start in range(begin, upto - self._config.grace - length + 1, length)[:_AT_ONCE]:
                if not self._is_archived(name, start):
                    break
                verdict = self._judged(name, start, first, windows)
                if verdict is not None:
                    found.append(verdict)
        return found

    def _now(self, windows: Mapping[str, Mapping[int, tuple[int, int]]]) -> int:
        newest = max(newest for each in windows.values() for _, newest in each.values())
        clock = self._clock.now_us()
        return clock if 0 <= clock - newest < 2 * self._config.window + self._config.grace else newest

    def _is_archived(self, name: str, start: int) -> bool:
        """Whether the archive has all that the topic of a dataset held when the window was seen to have ended."""
        if name == TABLES:
            return True
        topic = self._datasets[name].topic
        if (name, start) not in self._marks:
            ends, partitions = self._ends(), range(self._project.config.topics()[topic])
            self._marks[name, start] = {number: ends(topic, number) or 0 for number in partitions}
        progress = self._registry.progress(f"archive.{name}")
        at = {number: each.next_offset for number, each in progress.items()}
        return all(at.get(number, 0) >= end for number, end in self._marks[name, start].items())

    def _judged(
        self, name: str, start: int, first: int, windows: Mapping[str, Mapping[int, tuple[int, int]]]
    ) -> Quality | None:
        """The verdict on a window, told; None where another worker has given it."""
        length, reference = self._config.window, self._config.reference
        wanted = [each for each in (served_of(name), name) if each in self._datasets]
        found = judge(
            self._config,
            [self._source(each, windows.get(each, {})) for each in wanted],
            tables_of(self._project) if name == TABLES else [],
            first_us=max(first + length, start - 2 * reference * length),
            last_us=start + length - 1,
            since_us=start,
        )
        mine = tuple(alert for alert in found.alerts if name in (TABLES, alert.dataset))
        found = Quality(length, (start,), found.profiles, mine)
        forget = start - (2 * reference + 2) * length
        self._marks = {key: marks for key, marks in self._marks.items() if key != (name, start)}
        self._profiles = {key: known for key, known in self._profiles.items() if key[0] != name or key[1] >= forget}
        if not self._registry.windows.judge(name, start, list(_counted(mine)), forget):
            return None
        log_alerts(found)
        post_alerts(self._project.config.name, found, self._webhook)
        return found

    def _source(self, name: str, windows: Mapping[int, tuple[int, int]]) -> Source:
        def profiles(start: int, _end: int, _step: int) -> list[Profile]:
            key = (name, start)
            if key not in self._profiles:
                self._profiles[key] = profiles_of_sketches(name, start, self._registry.windows.sketches(*key))
            return self._profiles[key]

        return Source(name, partial(_rows, windows), profiles, served_of(name))


def _rows(windows: Mapping[int, tuple[int, int]], start: int, _end: int) -> int:
    return windows.get(start, (0, 0))[0]


def _counted(alerts: Sequence[Alert]) -> Iterator[AlertCount]:
    kinds = Counter((alert.dataset, alert.column, alert.measure, alert.severity) for alert in alerts)
    return (AlertCount(*kind, count) for kind, count in kinds.items())
