"""``[quality]``: windows that are compared with those before them, and the limits of how much they may differ."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from dovetail.platform.config.durations import DAY_US, DurationUs
from dovetail.platform.config.section import Section

__all__ = ["Measure", "QualityConfig", "QualityRule", "is_web_address"]

Measure = Literal["null_share", "psi", "skew", "distinct", "range", "rows", "age"]

#: The limits of what no rule of the project names: measure, limit, severity.
_DEFAULTS: tuple[tuple[Measure, float, Literal["warning", "error"]], ...] = (
    ("null_share", 0.1, "error"),
    ("psi", 0.5, "warning"),
    ("skew", 0.5, "warning"),
    ("distinct", 0.2, "error"),
    ("range", 10.0, "error"),
    ("rows", 0.2, "error"),
    ("age", 1.5, "error"),
)


def is_web_address(text: str) -> bool:
    """Whether ``text`` is a URL of HTTP or HTTPS, in ASCII and without blanks."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class QualityRule(Section):
    """A limit of one measure, for some columns of some datasets; the first rule that fits decides.

    ``null_share``: how far the share of NULLs may be above that of the reference. ``psi``: the population stability
    index to the reference, beyond chance and twice the largest that windows of the reference had to those before them.
    ``skew``: the same of what is trained on to what was served in the window, beyond twice what the reference had.
    ``distinct``: the least number of different values, as a part of the reference's. ``range``: the largest value, sign
    aside, as a multiple of the reference's. ``rows``: the least number of rows, as a part of the reference's. ``age``:
    of an offline table's newest row, in intervals of its view.
    """

    measure: Measure
    limit: float = Field(ge=0)
    #: Names, or patterns with ``*``; none means all.
    datasets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    severity: Literal["off", "warning", "error"] = "error"

    def fits(self, measure: Measure, dataset: str, column: str) -> bool:
        """Whether this rule is about that measure of that column."""
        return (
            self.measure == measure
            and (not self.datasets or any(fnmatchcase(dataset, each) for each in self.datasets))
            and (not self.columns or any(fnmatchcase(column, each) for each in self.columns))
        )


class QualityConfig(Section):
    """Each window of a dataset is compared with the ``reference`` windows before it, once there are ``warmup``."""

    window: DurationUs = DAY_US
    reference: int = Field(default=7, ge=1)
    warmup: int = Field(default=3, ge=1)
    #: Nothing is said of a window, nor by a reference, that has fewer rows.
    least_rows: int = Field(default=100, ge=1)
    #: Rows of a window that are looked at, evenly chosen; all are counted.
    most_rows: int = Field(default=1_000_000, ge=1_000)
    rules: tuple[QualityRule, ...] = ()
    #: The worker judges, too: each window when it is over and what had come ``grace`` after its end is archived.
    live: bool = False
    grace: DurationUs = 600_000_000
    #: Rows that the worker looks at, of what it archives of a partition at a time; all are counted.
    live_rows: int = Field(default=5_000, ge=100)
    #: Where alerts are posted to, http:// or https://, or a variable of it. All but its host may be secret.
    webhook: SecretStr | None = None
    webhook_env: str = ""
    #: How long an attempt to post them may take.
    webhook_timeout: DurationUs = Field(default=10_000_000, ge=1_000, le=60_000_000)

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, webhook: SecretStr | None) -> SecretStr | None:
        if webhook is not None and not is_web_address(webhook.get_secret_value()):
            raise ValueError("it is no address; write one that begins with http:// or https:// and has a host")
        return webhook

    @model_validator(mode="after")
    def _holds_together(self) -> QualityConfig:
        if self.window < 60_000_000:
            raise ValueError("window: it is below a minute; give it a duration like 1h or 1d")
        if self.warmup > self.reference:
            raise ValueError(
                f"warmup: {self.warmup} is more windows than the reference has; make it at most {self.reference}"
            )
        if self.webhook is not None and self.webhook_env:
            raise ValueError("webhook and webhook_env are two places for one thing; remove one of them")
        return self

    def rule(self, measure: Measure, dataset: str, column: str = "") -> QualityRule:
        """The rule of a measure of a column: the first of the project's that fits, or else the default."""
        found = (rule for rule in self.rules if rule.fits(measure, dataset, column))
        limit, severity = next((limit, severity) for name, limit, severity in _DEFAULTS if name == measure)
        return next(found, QualityRule(measure=measure, limit=limit, severity=severity))
