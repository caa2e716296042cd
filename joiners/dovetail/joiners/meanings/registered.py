"""Registering the settings of labels: what may change, from when on it counts, and what may not.

A change of what becomes of snapshot rows (a policy, a window, ``max_early``, ``values``, ``retracts``) counts for the
requests that are answered from then on: a snapshot bears the mark of the meaning it was made under, and that is
registered before. How labels are *read* is decided when they are: their effective times stand in the label store. So
``allowed_lateness`` and attribution keep their meaning once labels have been read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.label_meaning import LabelMeaning, meaning_of, settings_in
from dovetail.platform.config.durations import render_duration
from dovetail.platform.config.load import Config
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.registry.store import Registry

__all__ = ["Difference", "LabelChange", "known_meanings", "label_changes", "register_labels", "retired_scenes"]

_NOTHING = "none"


class Difference(NamedTuple):
    """A setting that is not as it was."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after}"

    @property
    def back(self) -> str:
        """How it is put back."""
        return f"remove {self.name}" if self.before == _NOTHING else f"set {self.name} to {self.before}"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """Settings of ``[labels]`` beside what is registered.

    ``name`` is ``labels``, or ``labels.KIND`` for how that is read. ``what``: ``new``, ``same``, ``changed`` or
    ``gone``. ``differences`` are the settings that are not as they were, ``data`` what was made of labels as they were
    read before.
    """

    name: str
    what: str
    differences: Sequence[Difference] = ()
    data: Sequence[str] = ()

    @property
    def refused(self) -> bool:
        """Whether a worker would refuse to start."""
        return self.what == "changed" and bool(self.data)

    @property
    def effect(self) -> str:
        """The effect of the change on data that are there."""
        changed = self.what == "changed" and not self.name.startswith("labels.")
        return "counts for requests that are answered from now on" if changed else ""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "name": self.name,
            "kind": "labels",
            "change": self.what,
            "differences": [str(difference) for difference in self.differences],
            "data": list(self.data),
            "state": self.effect,
            "refused": self.refused,
        }


def label_changes(
    config: Config, schemas: Mapping[str, TableSchema], registry: Registry, store: LabelStore
) -> list[LabelChange]:
    """The settings of labels as declared beside those registered; ``schemas`` are those of the kinds."""
    known = [LabelMeaning.parsed(one.text) for one in registry.label_settings()]
    found = [_policy_change(scene, schemas, known) for scene in config.every_scene()]
    logs, registered = _logs(config), registry.label_logs()
    for kind, log in logs.items():
        name = f"labels.{kind}"
        if kind not in registered:
            found.append(LabelChange(name, "new"))
            continue
        what = "same" if registered[kind] == log else "changed"
        differences = _differences(json.loads(registered[kind]), json.loads(log))
        found.append(LabelChange(name, what, differences, _read(store, kind)))
    gone = [kind for kind in registered if kind not in logs]
    return found + [LabelChange(f"labels.{kind}", "gone", (), _read(store, kind)) for kind in gone]


def _policy_change(config: Config, schemas: Mapping[str, TableSchema], known: Sequence[LabelMeaning]) -> LabelChange:
    """The policy of a scene as declared beside the last of it that is registered."""
    name = f"scenes.{config.scene}.labels" if config.scene else "labels"
    current = _current(config, schemas)
    before = next((one for one in reversed(known) if one.scene == config.scene), None)
    if before is None:
        return LabelChange(name, "new")
    if current.fingerprint == before.fingerprint:
        return LabelChange(name, "same")
    return LabelChange(name, "changed", _differences(settings_in(before), settings_in(current)))


def register_labels(
    config: Config, schemas: Mapping[str, TableSchema], registry: Registry, store: LabelStore
) -> Meanings:
    """Register the settings of labels, unless labels that were read have another meaning now; all that there were.

    Two workers may do so at once, also with different settings: each row is judged by those that it bears.

    Raises:
        DefinitionError: how labels are read has changed, and some have been; nothing was registered.
    """
    known, logs = registry.label_logs(), _logs(config)
    for change in label_changes(config, schemas, registry, store):
        if change.refused:
            raise _refusal(config, change)
    lost = registry.put_label_logs(logs, known)
    if lost:
        theirs = json.loads(registry.label_logs()[lost[0]])
        differences = _differences(theirs, json.loads(logs[lost[0]]))
        meanwhile = LabelChange(f"labels.{lost[0]}", "changed", differences, ["what another worker has registered"])
        raise _refusal(config, meanwhile)
    for scene in config.every_scene():
        current = _current(scene, schemas)
        registry.add_label_settings(current.fingerprint, current.text)
    return known_meanings(config, schemas, registry)


def known_meanings(config: Config, schemas: Mapping[str, TableSchema], registry: Registry) -> Meanings:
    """Every label meaning of this scene that is registered, and the one that is declared; those of others with it."""
    scenes = {name: known_meanings(config.of_scene(name), schemas, registry) for name in config.scenes}
    shared = not config.storage.local
    return Meanings.registered(registry, _current(config, schemas), shared=shared, scenes=scenes)


def retired_scenes(config: Config, registry: Registry) -> dict[str, list[LabelMeaning]]:
    """The scenes that the registry knows and the project does not have any more: their meanings by name, in order."""
    found: dict[str, list[LabelMeaning]] = {}
    for settings in registry.label_settings():
        meaning = LabelMeaning.parsed(settings.text)
        if meaning.scene and meaning.scene not in config.scenes:
            found.setdefault(meaning.scene, []).append(meaning)
    return found


def _current(config: Config, schemas: Mapping[str, TableSchema]) -> LabelMeaning:
    return meaning_of(config.labels, schemas, config.scene)


def _logs(config: Config) -> dict[str, str]:
    """How each kind is read, as a text."""
    labels = config.labels
    within = labels.attributed
    texts = {}
    for kind, stream in labels.streams.items():
        said = {"[labels] allowed_lateness": render_duration(labels.allowed_lateness)}
        if kind in within:
            said |= {
                f"[labels.streams.{kind}] attribute": str(stream.attribute),
                f"[labels.streams.{kind}] attribute_within": render_duration(within[kind]),
                "[request] allowed_lateness": render_duration(config.request.allowed_lateness),
            }
        texts[kind] = json.dumps(said)
    return texts


def _read(store: LabelStore, kind: str) -> list[str]:
    progress = store.progress(label_scope(kind))
    messages = sum(one.next_offset for one in progress.values())
    return [f"{messages:,} messages of {kind} that were read"] if messages else []


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    names = dict.fromkeys([*before, *after])
    all_ = (Difference(name, before.get(name, _NOTHING), after.get(name, _NOTHING)) for name in names)
    return [one for one in all_ if one.before != one.after]


def _refusal(config: Config, change: LabelChange) -> DefinitionError:
    file: Path = config.root / "dovetail.toml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    back = "; ".join(difference.back for difference in change.differences)
    return DefinitionError(
        f"[{change.name}] is read otherwise than {', '.join(change.data)}: {'; '.join(map(str, change.differences))}",
        file=file,
        line=next((number for number, line in enumerate(lines, 1) if line.strip() == "[labels]"), 1),
        remedy=f"when a label took effect, and for which request, is stored with it: {back}; or declare a kind of "
        "labels of another name and topic, which is read as it says",
    )
