"""Libraries that not every installation has: what needs one says which extra brings it.

The distribution is called ``dovetail-samples``, the package ``dovetail``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dovetail.platform.errors import ConfigError

__all__ = ["DISTRIBUTION", "extra_needed", "needs_extra"]

#: The name to install Dovetail by.
DISTRIBUTION = "dovetail-samples"


@contextmanager
def needs_extra(what: str, extra: str, instead: str = "") -> Iterator[None]:
    """Imports inside need the libraries of ``extra``; ``what`` is the subject of the error's sentence.

    ``instead`` is what else can be done, as the end of that sentence.

    Raises:
        ConfigError: one of the libraries is not installed. A module of Dovetail that is missing is another error.
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "dovetail":
            raise
        raise ConfigError(f"{extra_needed(what, extra, missing)}{instead and f', {instead}'}") from error


def extra_needed(what: str, extra: str, missing: str) -> str:
    """The sentence that says which extra to install, for ``what`` needs ``missing``."""
    return f"{what} needs {missing}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"
