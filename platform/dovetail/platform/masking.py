"""Secrets in what is printed: passwords of URLs, and of options given in them, are shown as ``***``.

Whoever prints, logs or raises text that may hold a URL passes it through :func:`masked`: banners, errors, dead letters.
"""

from __future__ import annotations

import re

__all__ = ["masked"]

# Up to the last @ of what may be a URL: passwords that were not percent-encoded hold any of :/@.
_LOGIN = re.compile(r"(?P<scheme>[A-Za-z][\w+.\-]*:///?)(?P<user>[^\s'\"<>:@]*):[^\s'\"<>]*@")
_OPTION = re.compile(
    r"(?P<name>[?&;][\w.\-]*(?:password|passwd|pwd|passphrase|passfile|secret|token|signature|credential|"
    r"(?:access|account|api|private)[_\-]?key|\bsig)[\w.\-]*=)[^&\s'\"<>]*",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """``text`` with ``***`` for the password of every URL in it, and for the values of URL options that hold one."""
    return _OPTION.sub(r"\g<name>***", _LOGIN.sub(r"\g<scheme>\g<user>:***@", text))
