"""Names that no other test uses."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of this test and this run: the broker may be one that is kept."""
    return f"{request.node.name}-{uuid.uuid4().hex[:8]}"
