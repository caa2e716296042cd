"""Secrets in what is printed: passwords of URLs, and of options given in them, are shown as ``***``.

Every :class:`~dovetail.platform.errors.DovetailError` says what it says through :func:`masked`; so does what prints or
logs text that may hold a URL. Errors of libraries quote URLs without their scheme, too.
"""

from __future__ import annotations

import re

__all__ = ["masked", "variable_name"]

# Up to the last @ of what may be a URL: passwords that were not percent-encoded hold any of :/@.
_LOGIN = re.compile(r"(?P<before>[A-Za-z][\w+.\-]*:///?[^\s'\"<>:@/]*):[^\s'\"<>]*@")
_WITHOUT_SCHEME = re.compile(r"(?P<before>(?<![\w:])[^\s'\"<>:@/]+):(?!//)[^\s'\"<>:@/]+@(?=[\w\[])")
_OPTION = re.compile(
    r"(?P<before>[?&;][\w.\-]*(?:password|passwd|pwd|passphrase|secret|token|signature|credential|"
    r"(?:access|account|api|private)[_\-]?key)[\w.\-]*=)[^&;\s'\"<>]*",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """``text`` with ``***`` for the password of every URL in it, and for the values of URL options that hold one."""
    if "@" in text:
        text = _LOGIN.sub(r"\g<before>:***@", text)
        text = _WITHOUT_SCHEME.sub(r"\g<before>:***@", text)
    return _OPTION.sub(r"\g<before>***", text) if "=" in text else text


def variable_name(given: str) -> str:
    """The name of an environment variable that holds a secret, unless it looks as if the secret itself were given."""
    return given if re.fullmatch(r"[A-Z][A-Z0-9_]*", given) else "that it names"
