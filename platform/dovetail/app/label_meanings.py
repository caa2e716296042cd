"""A project with the label settings that it has had: what snapshots of any of them still need."""

from __future__ import annotations

from dataclasses import replace

from dovetail.app.storage import Stores
from dovetail.features.project import Project
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.registered import known_meanings

__all__ = ["in_force", "with_meanings"]


def in_force(project: Project, meanings: Meanings) -> Project:
    """``project`` with what its rows of every meaning need: held topics, and the longest wait for labels."""
    labels = meanings.in_force(project.config.labels)
    return replace(project, config=project.config.reaching(labels, meanings.reaches()))


def with_meanings(project: Project, stores: Stores) -> tuple[Project, Meanings]:
    """``project``, :func:`in_force`, and the label meanings that it has had; nothing is registered."""
    meanings = known_meanings(project.config, project.label_schemas, stores.registry)
    return in_force(project, meanings), meanings
