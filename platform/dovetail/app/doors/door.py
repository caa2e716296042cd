"""The topics that take rows from outside, each with what its agents check a row by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dovetail.app.datasets import event_ids, label_intake, request_intake, stream_intake
from dovetail.features import Project
from dovetail.features.language.source import nearest
from dovetail.joiners.attribution import USER_COLUMN
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.identity import EventIds
from dovetail.platform.rows.intake import Intake

__all__ = ["Door", "door_of", "doors"]

Kind = Literal["stream", "requests", "label"]


@dataclass(frozen=True, slots=True)
class Door:
    """A topic that takes rows from outside.

    ``key`` is the column whose rows of one value are kept in order: they share a partition. ``intake`` checks rows as
    the agents of the topic do, but for what needs a running worker (refusals, ids seen before, and the worker's clock).
    ``ids`` says how rows are known when they come again; None where they are not. ``scene`` is that of requests.
    """

    kind: Kind
    name: str
    topic: str
    partitions: int
    key: str
    time_column: str
    intake: Intake
    ids: EventIds | None = None
    scene: str = ""

    def refuse_names(self) -> None:
        """Refuse to name the rows of a call.

        Raises:
            ConfigError: nobody would look at the names.
        """
        if self.ids is None:
            section = f"labels.streams.{self.name}" if self.kind == "label" else f"streams.{self.name}"
            how = (
                f"a request is known by its request_id, with {self._request_section} unique_within"
                if self.kind == "requests"
                else f'declare [{section}] unique_within = "1d", for as long as rows may be sent again'
            )
            raise ConfigError(f"{self.name}: ids of calls are not looked at there; {how}")

    @property
    def _request_section(self) -> str:
        return f"[scenes.{self.scene}.request]" if self.scene else "[request]"


def doors(project: Project) -> Mapping[str, Door]:
    """The doors of a project by name: its streams, ``requests``, and its kinds of labels. Re-keyed streams are none.

    Those of requests of other scenes are ``requests.NAME``, after all others.
    """
    config = project.config
    found = [
        Door(
            "stream",
            name,
            declared.topic or name,
            declared.partitions,
            declared.key,
            declared.event_time,
            stream_intake(project, name),
            event_ids(declared),
        )
        for name, declared in config.streams.items()
    ]
    found.append(_of_requests(project))
    for kind, stream in config.labels.streams.items():
        key = USER_COLUMN if kind in config.labels.attributed else "request_id"
        intake = label_intake(project, kind)
        ids = event_ids(stream)
        found.append(Door("label", kind, stream.topic or kind, stream.partitions, key, "event_time", intake, ids))
    found += map(_of_requests, project.scenes[1:])
    return {door.name: door for door in found}


def _of_requests(project: Project) -> Door:
    config, request = project.config, project.config.request
    return Door(
        "requests", config.in_scene("requests"), request.topic, request.partitions, "request_id", "request_time",
        request_intake(project), scene=config.scene,
    )  # fmt: skip


def door_of(project: Project, name: str, argument: str) -> Door:
    """The door called ``name``, or whose topic is.

    Raises:
        ConfigError: there is none; ``argument`` is how the command line calls the name.
    """
    known = doors(project)
    by_topic = {door.topic: door for door in known.values()}
    found = known.get(name) or by_topic.get(name)
    if found is None:
        raise ConfigError(f"{argument}: no rows are sent to {name!r}; {nearest(name, sorted({*known, *by_topic}))}")
    return found
