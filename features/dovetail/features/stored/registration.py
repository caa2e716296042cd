"""Definitions and the data made with them: what may change under its name, and what may not.

A definition that has data keeps its meaning as long as it keeps its name. Data are: a streaming view's online state, a
batch view's stored versions, a re-keyed stream's topic, and snapshots, samples or backfills that used it. Another
meaning gets another name, ``user_activity_v2`` for ``user_activity``: then both live side by side, and every row says
by its columns and the registry which of them made it.

The meaning is made of the columns that the definition reads. One of them may become wider: stored states keep the mark
of the layout they were begun with, and :func:`as_registered` gives the engines the views that bear it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.project import Project
from dovetail.features.stored.differences import differences, rekeyed_parts
from dovetail.features.stored.fingerprints import (
    REKEYED,
    REKEYED_PREFIX,
    family_of,
    former_fingerprint,
    records_of,
)
from dovetail.features.stored.history import refuse_grown
from dovetail.features.stored.read_columns import changed
from dovetail.platform.errors import DefinitionError
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.registry.definition_log import DefinitionRecord
from dovetail.platform.stores.registry.store import Registry

__all__ = ["Change", "as_registered", "changes", "data_of", "refuse_changed", "register", "register_rebuilt"]


_STATE = "online state"
#: Differences that an error shows; `dovetail check --diff` shows all.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Change:
    """A definition beside what is registered under its name.

    ``what``: ``new``, ``same``, ``changed`` or ``gone``. ``columns`` are the outputs added (``+``), removed (``-``)
    and of another type (``~``). ``state`` says what the change means for stored online state; ``data`` what there is.
    ``retyped`` are the columns it reads as another type, which is no wider one; ``in_full``: it was registered by a
    version that took every declared column for part of its meaning. ``differences`` are what is not as it was, line by
    line; ``rebuilds``: only the state of a streaming view is in the way, which `dovetail bootstrap` can build again.
    """

    name: str
    kind: str
    what: str
    columns: Sequence[str]
    state: str
    data: Sequence[str]
    retyped: Sequence[str] = ()
    in_full: bool = False
    differences: Sequence[str] = ()
    rebuilds: bool = False

    @property
    def refused(self) -> bool:
        """Whether a worker would refuse to start."""
        return self.what == "changed" and bool(self.data)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "change": self.what,
            "columns": list(self.columns),
            "state": self.state,
            "data": list(self.data),
            "retyped": list(self.retyped),
            "differences": list(self.differences),
            "rebuilds": self.rebuilds,
            "refused": self.refused,
        }


def data_of(record: DefinitionRecord, registry: Registry, online: OnlineStore) -> list[str]:
    """Data made with the registered definition, in words for people; empty when there is none."""
    found = []
    if record.kind == "streaming":
        positions = online.progress(record.name)
        if positions:
            rows = sum(progress.next_offset for progress in positions.values())
            found.append(f"{_STATE} up to {rows:,} messages")
    if record.kind == "batch":
        versions = registry.versions(record.name)
        if versions:
            found.append(f"{len(versions)} stored versions")
    if record.kind == REKEYED:
        positions = registry.progress(stage_name(record.name.removeprefix(REKEYED_PREFIX)))
        if positions:
            rows = sum(progress.next_offset for progress in positions.values())
            found.append(f"a topic of {rows:,} messages")
    days: dict[str, int] = {}
    for use in registry.uses():
        if use.definition == record.name and use.fingerprint == record.fingerprint:
            days[use.dataset] = days.get(use.dataset, 0) + 1
    return found + [f"{count} days of {dataset}" for dataset, count in days.items()]


def changes(
    project: Project, registry: Registry, online: OnlineStore, known: Mapping[str, DefinitionRecord] | None = None
) -> list[Change]:
    """Every definition of ``project`` and of the registry (or what it had, ``known``), compared."""
    known = registry.definitions() if known is None else known
    mine = {record.name: record for record in records_of(project)}
    definitions = _definitions(project)
    found = [
        _change(record, known.get(name), _understood(known.get(name), definitions.get(name), record), registry, online)
        for name, record in mine.items()
    ]
    for name, record in known.items():
        if name not in mine:
            state = "its state stays in the online store, and no longer moves" if record.kind == "streaming" else ""
            found.append(Change(name, record.kind, "gone", (), state, data_of(record, registry, online)))
    return found


def refuse_changed(
    project: Project, registry: Registry, online: OnlineStore, known: Mapping[str, DefinitionRecord] | None = None
) -> None:
    """See that no definition that has data means something else now.

    Raises:
        DefinitionError: one does.
    """
    for change in changes(project, registry, online, known):
        if change.refused:
            raise _refusal(project, change)


def register(project: Project, registry: Registry, online: OnlineStore) -> None:
    """Register the definitions of ``project``, unless one that has data means something else now.

    Two workers may do so at once: with the same meaning both are fine, else the second is refused.

    Raises:
        ConfigError: a topic has grown into the past that was taken from files.
        DefinitionError: one does, or another worker registered it with another meaning meanwhile; nothing was
            registered.
    """
    refuse_grown(project, registry)
    known = registry.definitions()
    refuse_changed(project, registry, online, known)
    _put(project, registry, records_of(project), known)


def as_registered(project: Project, registry: Registry) -> Project:
    """``project``, its streaming views with the marks that their stored states bear."""
    known = registry.definitions()
    views = {
        name: replace(view, state_mark=int(known[name].mark, 16)) if name in known and known[name].mark else view
        for name, view in project.stream_views.items()
    }
    return replace(project, stream_views=views)


@contextmanager
def register_rebuilt(project: Project, registry: Registry, online: OnlineStore, view: str) -> Iterator[None]:
    """Around building a view's state again: afterwards the view is registered as it is now.

    Raises:
        DefinitionError: it has changed, and more than its online state was made with what it was; or another worker
            registered it with another meaning meanwhile.
    """
    known = registry.definitions()
    change = next(change for change in changes(project, registry, online, known) if change.name == view)
    if change.what == "changed" and not change.rebuilds:
        raise _refusal(project, change)
    yield
    rebuilt = [record for record in records_of(project) if record.name == view]
    _put(project, registry, rebuilt, known, keep_marks=False)


def _put(
    project: Project,
    registry: Registry,
    records: Sequence[DefinitionRecord],
    known: Mapping[str, DefinitionRecord],
    *,
    keep_marks: bool = True,
) -> None:
    """Register; states of a definition that means what it meant keep their mark, unless they have been built anew."""
    renamed, given, definitions = dict[str, tuple[str, str]](), [], _definitions(project)
    for record in records:
        before = known.get(record.name)
        understood = _understood(before, definitions.get(record.name), record)
        if before is not None and understood is not None and _means_the_same(understood, record):
            renamed |= {record.name: (before.fingerprint, record.fingerprint)} if before is not understood else {}
            record = record._replace(mark=understood.mark) if keep_marks else record
        given.append(record)
    lost = registry.put_definitions(given, known, renamed)
    if lost:
        kind = next(record.kind for record in records if record.name == lost[0])
        meanwhile = Change(lost[0], kind, "changed", (), "", ())
        raise _refusal(project, meanwhile, than="the one that another worker has registered meanwhile")


def _definitions(project: Project) -> dict[str, StreamView | BatchView | FeatureSet]:
    return {**project.stream_views, **project.batch_views, **project.feature_sets}


def _understood(
    known: DefinitionRecord | None, definition: StreamView | BatchView | FeatureSet | None, record: DefinitionRecord
) -> DefinitionRecord | None:
    """A record of the version that took all declared columns for part of the meaning, as it would be made today.

    Where what it was made of is not what is declared now, it cannot be known what it read, and it stays as it is.
    """
    if known is None or known.reads or definition is None:
        return known
    if former_fingerprint(definition) != (known.fingerprint, known.state):
        return known
    return record._replace(mark=known.state)


def _means_the_same(known: DefinitionRecord, record: DefinitionRecord) -> bool:
    same = (known.fingerprint, known.state) == (record.fingerprint, record.state)
    return same and not changed(known.reads, record.reads)


def _change(
    record: DefinitionRecord,
    known: DefinitionRecord | None,
    understood: DefinitionRecord | None,
    registry: Registry,
    online: OnlineStore,
) -> Change:
    if known is None or understood is None:
        state = "filled from the first message the topic still has, or by `dovetail bootstrap`"
        return Change(record.name, record.kind, "new", (), state if record.kind == "streaming" else "", ())
    if _means_the_same(understood, record):
        return Change(record.name, record.kind, "same", (), "", data_of(known, registry, online))
    state = ""
    if record.kind == "streaming" and online.progress(record.name):
        readable = known.state == record.state
        state = "stored state can be read" if readable else "stored state cannot be read; it must be built again"
    data, retyped = data_of(known, registry, online), changed(known.reads, record.reads)
    only_state = all(made.startswith(_STATE) for made in data) or (
        known.fingerprint == record.fingerprint and not retyped
    )
    return Change(
        record.name,
        record.kind,
        "changed",
        _columns(_outputs(known), _outputs(record)) if record.kind != REKEYED else rekeyed_parts(known, record),
        state,
        data,
        retyped,
        in_full=not known.reads and bool(record.reads),
        differences=differences(known, record),
        rebuilds=record.kind == "streaming" and only_state,
    )


def _outputs(record: DefinitionRecord) -> dict[str, str]:
    pairs = (line.split(" ", 1) for line in record.outputs.splitlines())
    return {name: type_ for name, type_ in pairs}  # noqa: C416  (a list of two is no tuple)


def _columns(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    added = [f"+ {name} {type_}" for name, type_ in after.items() if name not in before]
    removed = [f"- {name} {type_}" for name, type_ in before.items() if name not in after]
    retyped = [f"~ {n} {t} -> {after[n]}" for n, t in before.items() if n in after and after[n] != t]
    return added + removed + retyped


def _refusal(project: Project, change: Change, *, than: str = "") -> DefinitionError:
    if change.kind == REKEYED:
        return _rekeyed_refusal(project, change, than)
    both = _definitions(project)
    definition = both[change.name]
    kind = change.kind if change.kind == "feature set" else f"{change.kind} view"
    enriched = [each.name for each in project.streams.values() if change.name in {view.name for view in each.enriched}]
    why = f": it reads {', '.join(change.retyped)}" if change.retyped else ""
    if not why and change.differences:
        shown = "; ".join(change.differences[:_SHOWN])
        why = f": {shown}{'; …' if len(change.differences) > _SHOWN else ''}"
    return DefinitionError(
        f"{kind} {change.name} means something else than {than or 'the one that made ' + ', '.join(change.data)}{why}",
        file=definition.file,
        line=definition.line,
        remedy=_ways(change, _following(change.name, both), enriched),
    )


def _following(name: str, taken_by: Iterable[str]) -> str:
    """The name of the next version of a definition."""
    family, version = family_of(name)
    taken = {family_of(other)[1] for other in taken_by if family_of(other)[0] == family}
    return f"{family}_v{max([version, *taken]) + 1}"


def _ways(change: Change, following: str, enriched: Sequence[str]) -> str:
    """The ways in which what is meant now can be had; ``enriched`` are re-keyed streams that have its values."""
    back = "put it back as it was"
    setting = next((each for each in change.differences if each.startswith("[")), None)
    if setting is not None:
        back = f"set {setting.partition(':')[0]} back"
    new = {
        "streaming": f"write the new one to {following}.sql, which `dovetail bootstrap {following}` gives a past from "
        "the archive, and join that",
        "batch": f"write the new one to {following}.sql, whose versions are computed when asked for, and join that",
    }.get(change.kind, f"write the new one to {following}.sql, and name it in [request] feature_set")
    if setting is not None and "strictly_before" in setting:
        new += "; EXCLUDE GROUP in its frames says strictly before for one view"
    ways = f"{back}, and {new}"
    if enriched and change.kind == "streaming":
        have = f"{', '.join(enriched)} {'have' if enriched[1:] else 'has'} its values in every row that is there"
        ways = f"{ways}; {have}: what shall have the new ones is a [rekeyed.NEW] that is enriched from {following}"
    elif change.rebuilds:
        rebuilt = f"`dovetail bootstrap {change.name} --replace`, which builds its state again from the archive"
        ways = f"stop the workers and run {rebuilt}; or {ways}"
    if change.in_full:
        ways += (
            "; it was registered by a version that took every declared column for part of its meaning: if only columns "
            "that it does not read have changed, start once with the tables as they were, then change them"
        )
    return f"{ways}; `dovetail check --diff` shows both"


def _rekeyed_refusal(project: Project, change: Change, than: str) -> DefinitionError:
    changed = f" ({', '.join(change.columns)})" if change.columns else ""
    file = project.config.root / "dovetail.toml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return DefinitionError(
        f"[{change.name}] is declared otherwise than {than or 'what made ' + ', '.join(change.data)}{changed}: a row "
        "published again after a crash must come to where it came before",
        file=file,
        line=next((number for number, line in enumerate(lines, 1) if line.strip() == f"[{change.name}]"), 1),
        remedy="put it back, and declare the new one under another name, which gets a topic of its own",
    )
