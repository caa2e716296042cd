"""Windows of data judged by those before them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import pyarrow as pa

from dovetail.app.quality.profiles import QUANTILES, Profile
from dovetail.app.quality.psi import Shift, merged, shift
from dovetail.platform.config.quality.rules import Measure, QualityConfig

__all__ = ["PROFILES", "Alert", "Dated", "Quality", "Source", "judge"]

#: The columns of :attr:`Quality.profiles`.
PROFILES = pa.schema(
    [
        ("dataset", pa.string()), ("column", pa.string()), ("kind", pa.string()), ("window", pa.timestamp("us")),
        ("rows", pa.int64()), ("null_share", pa.float64()), ("distinct", pa.int64()), ("low", pa.float64()),
        ("high", pa.float64()), *((f"q{round(q * 100):02d}", pa.float64()) for q in QUANTILES),
        ("psi", pa.float64()), ("skew", pa.float64()), ("reference_rows", pa.int64()),
        ("reference_null_share", pa.float64()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset with rows in time.

    ``count`` says how many rows there are from one microsecond to another, both included, and ``profiles`` gives the
    profiles of the columns that are judged, of each n-th of these rows. ``served`` names the dataset, judged before
    this one, whose columns of the same names should be alike: what is trained on was served.
    """

    name: str
    count: Callable[[int, int], int]
    profiles: Callable[[int, int, int], list[Profile]]
    served: str = ""


@dataclass(frozen=True, slots=True)
class Dated:
    """An offline table: ``newest`` says when its newest row became known that was known by a time, in microseconds.

    ``every_us`` is the shortest interval of the batch views that read it.
    """

    name: str
    every_us: int
    newest: Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A window that later ones are compared with: its profile, its index to those before it, and to what was served."""

    profile: Profile
    index: Shift | None
    skew: Shift | None


@dataclass(frozen=True, slots=True)
class Alert:
    """A window that breaks a rule. ``found`` and ``expected`` are what the measure is of it and of its reference."""

    severity: str
    dataset: str
    column: str
    measure: Measure
    window_us: int
    found: float
    expected: float
    limit: float

    @property
    def text(self) -> str:
        """The alert in words."""
        column = f".{self.column}" if self.column else ""
        said = {
            "null_share": f"{self.found:.1%} are NULL, {self.expected:.1%} were",
            "psi": f"has moved: PSI {self.found:.2f} to the windows before, {self.expected:.2f} at most was usual",
            "skew": f"is not what was served: PSI {self.found:.2f} between both, {self.expected:.2f} at most was usual",
            "distinct": f"{self.found:.4g} different values a row, {self.expected:.4g} were",
            "range": f"the largest value is {self.found:.4g}, {self.expected:.4g} was",
            "rows": f"{self.found:,.0f} rows, {self.expected:,.0f} were usual",
            "age": f"its newest row is {self.found:.1f} intervals old",
        }[self.measure]
        return f"{self.dataset}{column}: {said}"


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """The profiles (:data:`PROFILES`, by dataset, column and window), and the windows that break a rule.

    ``windows`` are the beginnings of those that were judged, ``window_us`` is their length.
    """

    window_us: int
    windows: tuple[int, ...]
    profiles: pa.Table
    alerts: tuple[Alert, ...]

    @property
    def failed(self) -> bool:
        """Whether there is an alert of severity ``error``."""
        return any(alert.severity == "error" for alert in self.alerts)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        alerts = [{**asdict(alert), "text": alert.text} for alert in self.alerts]
        return {
            "window_us": self.window_us, "windows": list(self.windows), "failed": self.failed, "alerts": alerts,
            "profiles": self.profiles.to_pylist(),
        }  # fmt: skip


def judge(
    config: QualityConfig,
    sources: Sequence[Source],
    dated: Sequence[Dated],
    *,
    first_us: int,
    last_us: int,
    since_us: int | None = None,
    on_window: Callable[[int, int, int], None] | None = None,
) -> Quality:
    """Judge the whole windows between two microseconds, both included, and from ``since_us`` on.

    Windows begin at multiples of their length since 1970. Those before ``since_us`` are references only. One window of
    one dataset is in memory at a time. ``on_window`` is told the beginning of each, how many there were before it and
    how many there are in all.
    """
    length = config.window
    starts = range(-(-first_us // length) * length, last_us + 2 - length, length)
    seen: dict[tuple[str, str], list[_Seen]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(list)
    rows: list[tuple[Any, ...]] = []
    alerts: list[Alert] = []
    for number, start in enumerate(starts):
        if on_window is not None:
            on_window(start, number, len(starts))
        judged = since_us is None or start >= since_us
        found: list[Alert] = []
        told: dict[str, dict[str, Profile]] = {}
        for source in sources:
            there = source.count(start, start + length - 1)
            found += _volume(config, source.name, start, there, counts[source.name][-config.reference :])
            counts[source.name].append(there)
            if not there:
                continue
            profiles = source.profiles(start, start + length - 1, -(-there // config.most_rows))
            told[source.name] = {profile.column: profile for profile in profiles}
            for profile in profiles:
                before = seen[source.name, profile.column][-config.reference :]
                line, broken, now = _column(config, profile, before, told.get(source.served, {}).get(profile.column))
                rows += [line] if judged else []
                found += broken
                seen[source.name, profile.column] = [*before, now]
        for table_ in dated:
            found += _age(config, table_, start, start + length)
        alerts += found if judged else []
    rows.sort(key=lambda row: (row[0], row[1], row[3]))
    columns = list(zip(*rows, strict=True)) or [()] * len(PROFILES)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PROFILES, strict=True)]
    judged_starts = tuple(start for start in starts if since_us is None or start >= since_us)
    return Quality(length, judged_starts, pa.table(arrays, schema=PROFILES), tuple(alerts))


def _volume(config: QualityConfig, dataset: str, start: int, rows: int, before: Sequence[int]) -> Iterator[Alert]:
    rule = config.rule("rows", dataset)
    usual = [count for count in before if count]
    if rule.severity == "off" or len(usual) < config.warmup or median(usual) < config.least_rows:
        return
    if rows < rule.limit * median(usual):
        yield Alert(rule.severity, dataset, "", "rows", start, rows, median(usual), rule.limit)


def _age(config: QualityConfig, table: Dated, start: int, end: int) -> Iterator[Alert]:
    rule = config.rule("age", table.name)
    newest = table.newest(end)
    if rule.severity == "off" or newest is None:
        return
    age = (end - newest) / table.every_us
    if age > rule.limit:
        yield Alert(rule.severity, table.name, "", "age", start, age, 1.0, rule.limit)


def _column(
    config: QualityConfig, profile: Profile, before: Sequence[_Seen], served: Profile | None
) -> tuple[tuple[Any, ...], list[Alert], _Seen]:
    """The row of a profile, the rules that it breaks, and what later ones are compared with."""
    number = profile.kind == "number"
    index = shift(merged(each.profile.histogram for each in before), profile.histogram, number=number)
    known = served is not None and served.kind == profile.kind and served.rows >= config.least_rows
    now = _Seen(profile, index, shift(served.histogram, profile.histogram, number=number) if served and known else None)
    total = sum(each.profile.rows for each in before)
    nulls = sum(each.profile.null_share * each.profile.rows for each in before) / total if total else None
    quantiles = profile.quantiles or (None,) * len(QUANTILES)
    line = (
        profile.dataset, profile.column, profile.kind, profile.start_us, profile.rows, profile.null_share,
        profile.distinct, profile.low, profile.high, *quantiles, None if index is None else float(index),
        None if now.skew is None else float(now.skew), total, nulls,
    )  # fmt: skip
    past = [each for each in before if each.profile.rows >= config.least_rows]
    if profile.rows < config.least_rows or len(past) < config.warmup or nulls is None:
        return line, [], now
    alerts = []
    for measure, found, expected, breaks in _measured(now, past, nulls):
        rule = config.rule(measure, profile.dataset, profile.column)
        if rule.severity != "off" and breaks(rule.limit):
            where = (profile.dataset, profile.column, measure, profile.start_us)
            alerts.append(Alert(rule.severity, *where, found, expected, rule.limit))
    return line, alerts, now


def _measured(
    now: _Seen, known: Sequence[_Seen], nulls: float
) -> Iterator[tuple[Measure, float, float, Callable[[float], bool]]]:
    """Each measure of a column with a value, that of its reference, and whether it breaks a limit."""
    profile = now.profile
    yield "null_share", profile.null_share, nulls, lambda limit: profile.null_share > nulls + limit
    # A day of the week, or counts that still grow after a cold start, move in every window; and what is shown is not
    # a chance part of what is scored.
    indexes: tuple[tuple[Measure, Shift | None, list[Shift | None]], ...] = (
        ("psi", now.index, [each.index for each in known]),
        ("skew", now.skew, [each.skew for each in known]),
    )
    for measure, moved, before in indexes:
        if moved is not None:
            usual = max((float(each) for each in before if each is not None), default=0.0)
            yield measure, float(moved), usual, partial(_beyond, moved, usual)
    # By number, since a column of few values has them all in any number of rows, and by row, for a short window.
    variety, least = profile.distinct / profile.rows, min(each.profile.distinct for each in known)
    varied = median(each.profile.distinct / each.profile.rows for each in known)
    yield "distinct", variety, varied, lambda limit: profile.distinct < limit * least and variety < limit * varied
    largest = max((each.profile.largest or 0.0 for each in known), default=0.0)
    if largest and profile.largest is not None:
        found = profile.largest
        yield "range", found, largest, lambda limit: found > limit * largest


def _beyond(moved: Shift, usual: float, limit: float) -> bool:
    """Whether an index is above the limit, its chance, and twice what is usual."""
    return moved > limit + 2 * usual + moved.chance
