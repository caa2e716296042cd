"""The worlds of batch evaluation and backfill, as fixtures."""

from tests.features.batch.conftest import project
from tests.features.stored.conftest import world

__all__ = ["project", "world"]
