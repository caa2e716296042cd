"""The assembly: workers, stores, jobs and reports of a project. ``faust -A dovetail.app worker`` starts here."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``app``: the Faust app of the project in ``$DOVETAIL_PROJECT``, put together when it is first asked for."""
    if name == "app":
        from dovetail.app.worker import configured_app  # seconds of imports, for whoever asks for it

        return globals().setdefault("app", configured_app())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
