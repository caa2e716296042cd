"""The label meanings that a project has had, and which of them a snapshot row is judged by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.joiners.snapshots.shape import MEANING_COLUMN
from dovetail.joiners.values.kind_rules import KindRule, LabelNeeds, ValueColumn
from dovetail.platform.config.policy import LabelConfig, Reach
from dovetail.platform.errors import StoreError
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stores.registry.store import Registry

__all__ = ["UNMARKED", "Meanings", "marks_of"]

#: What :func:`marks_of` says of a row that was made before meanings were registered.
UNMARKED = 0


def marks_of(snapshots: pa.Table) -> npt.NDArray[np.int64]:
    """The fingerprint of each row's meaning, int64 [n]; UNMARKED where it has none."""
    if MEANING_COLUMN not in snapshots.column_names:
        return np.full(snapshots.num_rows, UNMARKED, dtype=np.int64)
    marks: npt.NDArray[np.int64] = pc.fill_null(snapshots.column(MEANING_COLUMN), UNMARKED).to_numpy()
    return marks


class Meanings:
    """Every label meaning of a scene in the order registered, and which is in force for new requests. Thread-safe.

    A row that bears no mark is judged by the first. A target that the meaning of a row did not have is judged by the
    first that has it: so what a row means for a target never changes.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[LabelMeaning]],
        current: LabelMeaning,
        *,
        shared: bool,
        scenes: Mapping[str, Meanings] | None = None,
    ) -> None:
        """``read`` gives all that are registered, of every scene. ``shared``: others may add some while this is in use.

        ``scenes``: those of the other scenes, by name, whose snapshots are judged by the same labels.
        """
        self._read = read
        self._scenes = scenes or {}
        self.current = current
        self._shared = shared
        self._lock = threading.Lock()
        self._all: tuple[LabelMeaning, ...] = ()
        self._look()

    @classmethod
    def registered(
        cls,
        registry: Registry,
        current: LabelMeaning,
        *,
        shared: bool,
        scenes: Mapping[str, Meanings] | None = None,
    ) -> Meanings:
        """Those that the registry has of a scene, with the ``current`` one last where it is not registered."""

        parsed = cache(LabelMeaning.parsed)

        def read() -> list[LabelMeaning]:
            every = [parsed(settings.text) for settings in registry.label_settings()]
            return every if _with(every, current.fingerprint) else [*every, current]

        return cls(read, current, shared=shared, scenes=scenes)

    @classmethod
    def only(cls, meaning: LabelMeaning) -> Meanings:
        """A project that has had this one alone."""
        return cls(lambda: [meaning], meaning, shared=False)

    def all(self) -> tuple[LabelMeaning, ...]:
        """Every meaning of the scene that is registered by now, in the order they were."""
        if self._shared:
            self._look()
        return self._all

    def of_scene(self, name: str) -> Meanings:
        """Those of a scene: these, for the one that these are of."""
        return self._scenes.get(name, self)

    def _of_every_scene(self) -> tuple[LabelMeaning, ...]:
        return (*self.all(), *(one for scene in self._scenes.values() for one in scene.all()))

    def of(self, mark: int, target: str = "") -> LabelMeaning:
        """The meaning by which a target's rows with this mark are judged.

        Raises:
            StoreError: no such meaning is registered.
        """
        meaning = self._marked(mark)
        if target in meaning.targets:
            return meaning
        found = next((one for one in self._all if target in one.targets), None)
        if found is None:
            found = next((one for one in self.all() if target in one.targets), self.current)
        return found

    def kept(self, kind: str, schema: TableSchema) -> KindRule:
        """The rule by which labels of a kind are kept: for every meaning of any scene, by the columns there are."""
        rules = [one.rules[kind] for one in self._of_every_scene() if kind in one.rules]
        there = set(schema.arrow.names)
        columns: dict[str, ValueColumn] = {}
        for value in (value for rule in rules for value in rule.values if value.column in there):
            columns[value.column] = value
        taken_back = {other for rule in rules for other in rule.taken_back_by}
        takes = any(rule.takes_back for rule in rules)
        return KindRule(kind, tuple(columns.values()), tuple(sorted(taken_back)), takes)

    def needed(self, kind: str, schema: TableSchema, labels: LabelConfig) -> LabelNeeds:
        """The needs of all meanings of any scene of a kind of these ``labels``.

        The request of an attributed one was before it; otherwise clocks may disagree.
        """
        mine = labels.reaching(_reach(self._of_every_scene()))
        before = 0 if kind in labels.attributed else max(labels.retention, mine.furthest_early_us)
        return LabelNeeds(self.kept(kind, schema), mine.longest_us + before)

    def in_force(self, labels: LabelConfig) -> LabelConfig:
        """``labels`` as a worker keeps topics and label rows: for rows of every meaning."""
        return labels.reaching(self.reach())

    def reach(self) -> Reach:
        """The needs of rows of every meaning."""
        return _reach(self.all())

    def reaches(self) -> dict[str, Reach]:
        """As :meth:`reach`, of the other scenes by name."""
        return {name: scene.reach() for name, scene in self._scenes.items()}

    def _marked(self, mark: int) -> LabelMeaning:
        if mark == UNMARKED:
            return self._all[0]
        found = _with(self._all, mark) or _with(self._look(), mark)
        if found is None:
            raise StoreError(self._unknown(mark))
        return found

    def _unknown(self, mark: int) -> str:
        """Why rows with this mark are not to be judged here, and what to do."""
        theirs = _with(self._read(), mark)
        if theirs is None:
            return (
                f"snapshots are to be judged by label settings that the registry does not have (mark {mark}): it was "
                "deleted, or is another project's; restore it from a copy"
            )
        mine, other = self.current.scene, theirs.scene
        here, there = (f"the scene {name}" if name else "the scene without a name" for name in (mine, other))
        cause = f"the snapshots that {here} reads were made by {there} (mark {mark})"
        topics = "topic, snapshots_topic and samples_topic"
        if not (mine and other):
            return f"{cause}, which alone can judge them: give {here} a {topics} that no scene has had"
        return (
            f"{cause}: a scene that is renamed is a new one, and cannot judge what another has answered; rename "
            f"[scenes.{mine}] to [scenes.{other}] again, or, if it has answered requests under its new name, begin "
            f"anew with a name and with a {topics} that no scene has had"
        )

    def _look(self) -> tuple[LabelMeaning, ...]:
        with self._lock:
            self._all = tuple(one for one in self._read() if one.scene == self.current.scene)
            return self._all


def _with(meanings: Iterable[LabelMeaning], mark: int) -> LabelMeaning | None:
    return next((one for one in meanings if one.fingerprint == mark), None)


def _reach(meanings: Sequence[LabelMeaning]) -> Reach:
    lanes: dict[str, int] = {}
    for name, policy in (pair for one in meanings for pair in one.targets.items()):
        lanes[name] = max(lanes.get(name, 0), len(policy.horizons_us))
    longest_us = max(one.longest_us for one in meanings)
    return Reach(longest_us, max(one.early_us for one in meanings), lanes)
