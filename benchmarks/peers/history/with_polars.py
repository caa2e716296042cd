"""Polars: ``join_asof``; and for windows a join of requests with their user's events, grouped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

PACKAGES = ("polars",)
HOUR, DAY, WEEK = (pl.duration(hours=hours) for hours in (1, 24, 168))


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``as_of`` or ``windows``."""
    query = _as_of if way == "as_of" else _windows

    def written() -> pa.Table:
        made = folder / f"polars-{way}.parquet"
        requests, events = (pl.scan_parquet(folder / name / "*.parquet") for name in ("requests", "events"))
        query(requests, events).sink_parquet(made, compression="zstd")
        return pq.read_table(made)

    return written


def _as_of(requests: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    return (
        requests.set_sorted("request_time")
        .join_asof(
            events.set_sorted("event_time"),
            left_on="request_time",
            right_on="event_time",
            by="user_id",
            strategy="backward",
        )
        .select("action", "cents")
    )


def _windows(requests: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    asked, at = pl.col("request_time"), pl.col("event_time")
    price, clicked = pl.col("price"), pl.col("action") == "click"
    in_hour, in_day = at >= pl.col("hour"), at >= pl.col("day")
    keyed = requests.select(
        pl.col("request_id").cast(pl.Int64).alias("number"),
        "user_id",
        "request_time",
        hour=asked - HOUR,
        day=(asked - DAY).dt.truncate("1h"),
        week=(asked - WEEK).dt.truncate("6h"),
    )
    found = (
        keyed.join(events, on="user_id")
        .filter(at.is_between(pl.col("week"), asked))
        .group_by("number")
        .agg(
            events_1h=in_hour.sum(),
            clicks_1h=(in_hour & clicked).sum(),
            events_1d=in_day.sum(),
            clicks_1d=(in_day & clicked).sum(),
            spend_1d=_sum(price.filter(in_day)),
            events_7d=pl.len(),
            clicks_7d=clicked.sum(),
            spend_7d=_sum(price.filter(pl.col("action") == "order")),
            min_price_7d=price.min(),
            max_price_7d=price.max(),
        )
    )
    counts = pl.col("events_1h", "clicks_1h", "events_1d", "clicks_1d", "events_7d", "clicks_7d").fill_null(0)
    return (
        keyed.select("number").join(found, on="number", how="left").with_columns(counts).sort("number").drop("number")
    )


def _sum(prices: pl.Expr) -> pl.Expr:
    """As SQL has it: NULL of nothing."""
    return pl.when(prices.count() > 0).then(prices.sum())
