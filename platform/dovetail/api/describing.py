"""The project told to programs: its definitions, its models, and how far everything has come."""

from __future__ import annotations

from typing import Any

from dovetail.app.storage import Stores, stores_of
from dovetail.app.worker import label_watermark
from dovetail.features import Project
from dovetail.joiners.progress import request_watermark
from dovetail.platform.clock import moment_of

__all__ = ["definitions_of", "freshness_of", "models_of"]


def definitions_of(project: Project) -> list[dict[str, Any]]:
    """Every definition: name, kind, where it stands, its entity, and what it keeps and computes."""
    return [
        {"name": d.name, "kind": d.kind, "file": d.file, "line": d.line, "entity": list(d.entity), **d.details}
        for d in project.describe()
    ]


def models_of(project: Project, stores: Stores) -> dict[str, Any]:
    """The published versions of the project's model, the newest last, with what was decided about them.

    ``scenes`` has those of other scenes, by name, where there are some.
    """
    others = {one.config.scene: _models_of(one, stores_of(one.config, stores)) for one in project.scenes[1:]}
    return _models_of(project, stores) | ({"scenes": others} if others else {})


def _models_of(project: Project, stores: Stores) -> dict[str, Any]:
    model = project.config.model
    if model is None:
        return {"model": None, "versions": []}
    directory = stores.models
    pinned, shadow, refused = directory.pinned, directory.shadow, directory.refused()
    fulls = set(directory.fulls())
    versions = [
        {"version": version, "full": version in fulls, "refused": refused.get(version, [])}
        for version in directory.versions()
    ]
    return {"model": model.name, "latest": directory.latest(), "pinned": pinned, "shadow": shadow, "versions": versions}


def freshness_of(project: Project, stores: Stores) -> dict[str, Any]:
    """The event time up to which each view, the labels and the requests are known, in ISO 8601; null: nothing yet.

    ``scenes`` has the requests of other scenes, by name, where there are some.
    """
    views = {}
    for name in project.stream_views:
        progress = stores.online.progress(name)
        newest = [each.watermark_us for each in progress.values() if each.watermark_us is not None]
        views[name] = {
            "newest_event": _time(max(newest, default=None)),
            "positions": {str(partition): each.next_offset for partition, each in sorted(progress.items())},
        }
    requests = {
        scene.scene: {"watermark": _time(request_watermark(scene, stores.registry))}
        for scene in project.config.every_scene()
    }
    return {
        "views": views,
        "labels": {"watermark": _time(label_watermark(project.config, stores.labels))},
        "requests": requests.pop(""),
        **({"scenes": requests} if requests else {}),
    }


def _time(us: int | None) -> str | None:
    if us is None:
        return None
    return moment_of(us).isoformat()
