"""Feature definitions in SQL, and what they mean: loading and checking, batch evaluation, the stream engine."""

from dovetail.features.project import Project, load

__all__ = ["Project", "load"]
