"""A label meaning: the settings of ``[labels]`` that decide what becomes of a snapshot row, as one text and its hash.

The text is kept in the registry, the hash stands in every snapshot row that was made while the settings were in force.
So each row is judged by the settings of its request, by whatever worker, in whatever lane, and again in batch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dovetail.joiners.values.kind_rules import KindRule, ValueColumn, rules_of
from dovetail.platform.config.durations import render_duration
from dovetail.platform.config.policy import LabelConfig, PolicyConfig
from dovetail.platform.rows.schema import TableSchema

__all__ = ["LabelMeaning", "meaning_of", "settings_in"]

_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)")
#: Where samples go is no part of what they say.
_PLACES = {"samples_topic"}


@dataclass(frozen=True, slots=True)
class LabelMeaning:
    """Settings by which snapshot rows are judged.

    ``fingerprint`` is that of the ``text``, 63 bits, above 0. ``targets``: the policies by name, the primary one under
    the empty name. A label that happened more than ``early_us`` before a request does not count for it. ``rules``, by
    kind, in the order declared. ``scene``: whose snapshots they are.
    """

    fingerprint: int
    text: str
    targets: Mapping[str, PolicyConfig]
    early_us: int
    rules: Mapping[str, KindRule]
    scene: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels."""
        return tuple(self.rules)

    @property
    def longest_us(self) -> int:
        """The longest any target waits after the request, in microseconds."""
        return max(policy.horizons_us[-1] for policy in self.targets.values())

    @classmethod
    def parsed(cls, text: str) -> LabelMeaning:
        """The meaning that a text says."""
        said = json.loads(text)
        streams: dict[str, Any] = said["streams"]
        taken_back: dict[str, list[str]] = {}
        for kind, stream in streams.items():
            if stream["retracts"] is not None:
                taken_back.setdefault(stream["retracts"], []).append(kind)
        rules = {
            kind: KindRule(
                kind,
                tuple(
                    ValueColumn(f"{kind}_{column}", column, aggregate, _type_named(type_))
                    for column, (aggregate, type_) in stream["values"].items()
                ),
                tuple(taken_back.get(kind, ())),
                stream["retracts"] is not None,
            )
            for kind, stream in streams.items()
        }
        targets = {name: PolicyConfig.model_validate(policy) for name, policy in said["targets"].items()}
        early_us: int = said["early_us"]
        return cls(_hash(said), text, targets, early_us, rules, said.get("scene", ""))


def meaning_of(labels: LabelConfig, schemas: Mapping[str, TableSchema], scene: str = "") -> LabelMeaning:
    """The meaning that is declared for a scene; ``schemas`` are those of the kinds."""
    rules = rules_of(labels, schemas)
    streams = {
        kind: {
            "values": {value.column: [value.aggregate, str(value.declared)] for value in rules[kind].values},
            "retracts": stream.retracts,
        }
        for kind, stream in labels.streams.items()
    }
    own = set(PolicyConfig.model_fields) - _PLACES
    targets = {name: _settings(policy, own) for name, policy in labels.every_target().items()}
    of_scene = {"scene": scene} if scene else {}
    said = {"early_us": labels.early_us, "streams": streams, "targets": targets}
    return LabelMeaning.parsed(json.dumps(said | of_scene))


def settings_in(meaning: LabelMeaning) -> dict[str, str]:
    """Every setting of a meaning by its place in ``dovetail.toml``, as it could be written there."""
    found = {"[labels] max_early": render_duration(meaning.early_us)}
    said = json.loads(meaning.text)
    for name, policy in said["targets"].items():
        labels = f"scenes.{meaning.scene}.labels" if meaning.scene else "labels"
        where = f"[{labels}.targets.{name}]" if name else f"[{labels}]"
        found |= {f"{where} {key}": json.dumps(value) for key, value in policy.items()}
    for kind, stream in said["streams"].items():
        where = f"[labels.streams.{kind}]"
        values = ", ".join(f"{column} = {made} of {type_}" for column, (made, type_) in stream["values"].items())
        found |= {f"{where} values": f"{{{values}}}", f"{where} retracts": json.dumps(stream["retracts"])}
    return found


def _settings(policy: PolicyConfig, own: set[str]) -> dict[str, Any]:
    """The settings that are not left at what they are without being declared, and always the window and the kinds."""
    said = policy.model_dump(mode="json", include=own)
    always = ("policy", "window", "exposure", "positive")
    return {name: said[name] for name in sorted(own) if name in always or not _is_default(policy, name)}


def _is_default(policy: PolicyConfig, name: str) -> bool:
    return bool(getattr(policy, name) == PolicyConfig.model_fields[name].default)


def _type_named(name: str) -> pa.DataType:
    match = _DECIMAL.fullmatch(name)
    if match:
        return pa.decimal128(int(match[1]), int(match[2]))
    return pa.type_for_alias(name)


def _hash(said: Mapping[str, Any]) -> int:
    """The same for the same settings in any order, but for that of kinds and columns, which samples have."""
    ordered = [list(said["streams"]), [list(stream["values"]) for stream in said["streams"].values()]]
    digest = hashlib.sha256(json.dumps([said, ordered], sort_keys=True).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) or 1
