"""How long a project's labels take, what each window would catch, and what it costs in freshness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports.archived import archived_labels, archived_snapshots, target_of
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.batch.label_delays import known_until_us, label_delays, sample_waits
from dovetail.joiners.batch.survival import Curve, kaplan_meier
from dovetail.platform.config.durations import parse_duration
from dovetail.platform.errors import ConfigError

__all__ = ["QUANTILES", "KindDelays", "LabelDelays", "WindowCost", "delays_of", "measured_delays"]

_Ints = npt.NDArray[np.int64]

#: The shares of labels whose times are told.
QUANTILES = (0.5, 0.9, 0.95, 0.99)
#: Windows that somebody would write into dovetail.toml.
_ROUND = tuple(
    parse_duration(text)
    for text in (
        *("1s", "2s", "5s", "10s", "15s", "30s", "1m", "2m", "5m", "10m", "15m", "30m", "1h", "2h", "3h", "6h", "12h"),
        *("1d", "2d", "3d", "5d", "7d", "14d", "30d", "60d", "90d"),
    )
)
#: Rows watched for longer than all but this share are too few to say anything by.
_LONGEST = 0.1
#: How many times as long as needed a window may be that is judged unasked.
_TIMES = 8
#: What every snapshot row is known by, and when it was asked for.
_KEYS = ("request_id", "item_id", "request_time")
#: Values of a slice, the most frequent ones.
_VALUES = 20


@dataclass(frozen=True, slots=True)
class WindowCost:
    """A window: the share of labels it catches, with its 95 % interval, and how long samples wait for it.

    The waits, in microseconds of event time from the request to the release of its sample, are the median and the 95 %
    quantile; None where no request has been released with such a window.
    """

    window_us: int
    caught: float
    low: float
    high: float
    wait_us: int | None
    wait_95_us: int | None


@dataclass(frozen=True, slots=True)
class KindDelays:
    """The delays of one kind of label, of all rows or (``slice``: ``column=value``) some."""

    kind: str
    slice: str
    #: Rows that could get such a label, and labels they got within ``horizon_us``.
    rows: int
    labels: int
    #: Nothing is said of labels later than this: too few rows have been watched for longer.
    horizon_us: int
    #: Share of rows that get a label within the horizon.
    share: float
    #: Microseconds by which these shares of the labels have come.
    quantiles: dict[float, int]
    windows: tuple[WindowCost, ...]
    #: Microseconds by which the wanted share has come, and the next round window; None without labels.
    needed_us: int | None
    recommended_us: int | None


@dataclass(frozen=True, slots=True)
class LabelDelays:
    """The delays of all kinds, from ``since`` (``request``, or a kind of label) on.

    ``until_us``: labels up to then were taken as known, microseconds since 1970-01-01 UTC.
    """

    since: str
    wanted: float
    until_us: int
    #: The windows of the target as declared, in microseconds: when it looks.
    declared_us: tuple[int, ...]
    positive: str
    kinds: tuple[KindDelays, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def delays_of(
    project: Project,
    stores: Stores,
    *,
    target: str = "",
    since: str = "request",
    slices: Sequence[str] = (),
    windows_us: Sequence[int] = (),
    wanted: float = 0.95,
    horizon_us: int | None = None,
) -> LabelDelays:
    """The delays of every kind of label in the archive; the arguments are those of :func:`measured_delays`.

    Raises:
        ConfigError: an argument is out of range, nothing is archived, or there is no such target, kind or column.
    """
    slices = _distinct(slices)
    columns = [*_KEYS, *slices]
    _, meanings = with_meanings(project, stores)
    return measured_delays(
        project,
        archived_snapshots(stores, shared=False, columns=columns, scene=project.config.scene),
        archived_labels(project, stores, meanings),
        target=target, since=since, slices=slices, windows_us=windows_us, wanted=wanted, horizon_us=horizon_us,
    )  # fmt: skip


def measured_delays(
    project: Project,
    snapshots: pa.Table,
    logs: dict[str, pa.Table],
    *,
    target: str = "",
    since: str = "request",
    slices: Sequence[str] = (),
    windows_us: Sequence[int] = (),
    wanted: float = 0.95,
    horizon_us: int | None = None,
) -> LabelDelays:
    """How long labels take from ``since`` on, which is ``request`` or a kind of label, and what windows catch of them.

    Of the exposure kind of ``target`` every candidate could get one, of the others those that were exposed. Young rows
    are censored (Kaplan and Meier). The share of labels is of those that come within ``horizon_us``: by default as long
    as a tenth of the rows have been watched. With a kind as ``since``, only rows that have one count, and of that kind
    nothing is told. ``windows_us``: those to judge, beside the declared ones; some round ones
    by default. Of what is recommended at least ``wanted`` of the labels come in. Windows count from the request, so
    with another ``since`` there is neither a wait nor a recommendation.

    Raises:
        ConfigError: an argument is out of range, there are no snapshots, or no such target, kind or column.
    """
    config, policy, slices = project.config.labels, target_of(project, target), _distinct(slices)
    _require(snapshots, logs, since, slices, wanted, horizon_us)
    until = known_until_us(snapshots, logs, config.allowed_lateness)
    known = _Known(project, snapshots, logs, since, until, wanted, horizon_us)
    kinds: list[KindDelays] = []
    for kind in logs:
        if kind == since:
            continue
        rows = label_delays(
            snapshots, logs, kind,
            exposure=None if kind == policy.exposure else policy.exposure,
            since=None if since == "request" else since,
            slices=slices, allowed_lateness_us=config.allowed_lateness, early_us=config.early_us,
        )  # fmt: skip
        kinds += known.kind(kind, rows, slices, windows_us, policy.horizons_us)
    return LabelDelays(since, wanted, until, policy.horizons_us, policy.positive, tuple(kinds))


@dataclass(frozen=True, slots=True)
class _Known:
    """The logs, and the question that is asked of every kind."""

    project: Project
    snapshots: pa.Table
    logs: dict[str, pa.Table]
    since: str
    until_us: int
    wanted: float
    horizon_us: int | None

    def kind(
        self, kind: str, rows: pa.Table, slices: Sequence[str], asked: Sequence[int], declared: Sequence[int]
    ) -> list[KindDelays]:
        """The delays of a kind, of all rows and then by slice; nothing where no row is old enough."""
        watched = self.until_us - rows.column("since").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        delays = pc.fill_null(rows.column("delay"), -1).to_numpy()
        young = watched <= 0
        if young.all():
            return []
        horizon = self.horizon_us or max(1, int(np.quantile(watched[~young], 1 - _LONGEST)))
        curves = {
            name: (int(mask.sum()), kaplan_meier(delays[mask], watched[mask], horizon))
            for name, mask in [("", ~young), *_sliced(rows, slices, ~young)]
        }
        windows = {*asked, *declared, *(() if asked else self._usual(curves[""][1], horizon))}
        if self._recommended(curves[""][1]) is not None:
            windows.add(self._recommended(curves[""][1]) or 0)
        waits = {window: self._waits(window) for window in windows}
        return [
            KindDelays(
                kind, name, count, int(curve.events.sum()), horizon, curve.happened,
                {q: at for q in QUANTILES if (at := curve.within(q)) is not None},
                tuple(_cost(curve, window, waits[window]) for window in sorted(windows) if curve.happened),
                curve.within(self.wanted), self._recommended(curve),
            )
            for name, (count, curve) in curves.items()
        ]  # fmt: skip

    def _recommended(self, curve: Curve) -> int | None:
        needed = curve.within(self.wanted)
        return None if needed is None or self.since != "request" else _rounded(needed)

    def _usual(self, curve: Curve, horizon: int) -> list[int]:
        """Round windows that catch half or more, up to some times as long as is needed."""
        half, needed = curve.within(0.5), curve.within(self.wanted)
        if half is None or needed is None:
            return []
        return [window for window in _ROUND if half <= window <= min(horizon, _TIMES * needed)]

    def _waits(self, window: int) -> _Ints | None:
        if self.since != "request":
            return None
        labels, times = self.project.config.labels, _request_times(self.snapshots)
        return sample_waits(
            times, window, self.logs,
            allowed_lateness_us=labels.allowed_lateness, idle_timeout_us=labels.idle_timeout,
        )  # fmt: skip


def _require(
    snapshots: pa.Table,
    logs: dict[str, pa.Table],
    since: str,
    slices: Sequence[str],
    wanted: float,
    horizon_us: int | None,
) -> None:
    if not 0 < wanted <= 1:
        raise ConfigError(f"--share {wanted}: write the share of labels to catch, above 0 and at most 1, such as 0.95")
    if horizon_us is not None and horizon_us < 1:
        raise ConfigError("--horizon: give a duration above 0")
    if since not in ("request", *logs):
        raise ConfigError(f"--since {since}: no such kind of label; write request, or one of {', '.join(logs)}")
    if snapshots.num_rows == 0:
        raise ConfigError("no snapshot is archived yet, so nothing says how long labels take; run the project's worker")
    absent = [name for name in slices if name not in snapshots.column_names]
    if absent:
        raise ConfigError(
            f"--slice {absent[0]}: snapshots have no such column; name a feature that is computed when it is served "
            "(no list that candidates share, no column of a batch view)"
        )


def _request_times(snapshots: pa.Table) -> _Ints:
    """When each request was, microseconds."""
    times = snapshots.group_by("request_id").aggregate([("request_time", "min")]).column("request_time_min")
    found: _Ints = times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return found


def _rounded(us: int) -> int:
    """The next window that is round, or a whole number of days."""
    day = _ROUND[-1] // 90
    return next((window for window in _ROUND if window >= us), -(-us // day) * day)


def _cost(curve: Curve, window: int, waits: _Ints | None) -> WindowCost:
    low, high = curve.caught_interval(window) or (0.0, 0.0)
    median = late = None
    if waits is not None and len(waits):
        median, late = (int(at) for at in np.quantile(waits, [0.5, 0.95], method="inverted_cdf"))
    return WindowCost(window, curve.caught(window) or 0.0, low, high, median, late)


def _distinct(slices: Sequence[str]) -> list[str]:
    """Each column once.

    Raises:
        ConfigError: one is a key, of which every row has another.
    """
    if keys := [name for name in slices if name in _KEYS]:
        raise ConfigError(f"--slice {keys[0]}: nearly every row has another; slice by a column of few values")
    return list(dict.fromkeys(slices))


def _sliced(
    rows: pa.Table, slices: Sequence[str], watched: npt.NDArray[np.bool_]
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The slices by name, with the rows of each: of every column its most frequent values."""
    found = []
    for column in slices:
        values = pc.fill_null(rows.column(column), "(null)").combine_chunks().dictionary_encode()
        codes = values.indices.to_numpy()
        counts = np.bincount(codes[watched], minlength=len(values.dictionary))
        often = [code for code in np.argsort(-counts, kind="stable")[:_VALUES].tolist() if counts[code]]
        found += [(f"{column}={values.dictionary[code].as_py()}", watched & (codes == code)) for code in often]
    return found
