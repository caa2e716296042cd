"""All comparisons, by name."""

from __future__ import annotations

from .contestants import Comparison, Contestant
from .history import data as history
from .learners import data as learners
from .online import data as online
from .streams import data as streams
from .streams import on_kafka

COMPARISONS = {
    each.name: each
    for each in (
        Comparison(
            "as-of",
            "Newest values as of a request",
            "requests",
            history.prepare_as_of,
            (
                Contestant("Dovetail, backfill", "history.with_dovetail", "as_of"),
                Contestant("DuckDB, `ASOF JOIN`", "history.with_duckdb", "as_of", agrees=history.equal),
                Contestant("Polars, `join_asof`", "history.with_polars", "as_of", "polars", history.equal),
                Contestant("Feast, historical, files", "history.with_feast", "as_of", "feast", history.equal_where_any),
            ),
        ),
        Comparison(
            "windows",
            "Aggregates over windows, of history",
            "requests",
            history.prepare_windows,
            (
                Contestant("Dovetail, backfill", "history.with_dovetail", "windows"),
                Contestant("DuckDB, windows", "history.with_duckdb", "windows", agrees=history.equal),
                Contestant("DuckDB, join", "history.with_duckdb", "join", agrees=history.equal),
                Contestant("Polars, join", "history.with_polars", "windows", "polars", history.equal),
            ),
        ),
        Comparison(
            "learners",
            "Logistic regression by FTRL, online",
            "examples",
            learners.prepare,
            (
                Contestant("Dovetail, from encoded slots", "learners.with_dovetail", "slots"),
                Contestant(
                    "Dovetail, from Arrow columns, hashed and evaluated",
                    "learners.with_dovetail",
                    "columns",
                    agrees=learners.same_loss,
                ),
                Contestant(
                    "Vowpal Wabbit `--ftrl`, from its cache",
                    "learners.with_vowpal_wabbit",
                    "cache",
                    "learners",
                    learners.same_loss,
                ),
                Contestant(
                    "Vowpal Wabbit `--ftrl`, from text",
                    "learners.with_vowpal_wabbit",
                    "text",
                    "learners",
                    learners.same_loss,
                ),
                Contestant(
                    "River `FTRLProximal`, from dicts", "learners.with_river", "", "learners", learners.same_loss
                ),
            ),
        ),
        Comparison(
            "streams",
            "A stream's hourly values",
            "events",
            streams.prepare,
            (
                Contestant("Dovetail, SQLite, an hour's events and then its values", "streams.with_dovetail", "hourly"),
                Contestant("Dovetail, SQLite, state only, polls of 20,000", "streams.with_dovetail", "state"),
                Contestant("bytewax, no recovery", "streams.with_bytewax", "memory", "bytewax", streams.equal),
                Contestant(
                    "bytewax, recovery each second", "streams.with_bytewax", "recovery", "bytewax", streams.equal
                ),
                Contestant("Flink SQL, heap", "streams.with_flink", "hashmap", "flink", streams.equal),
                Contestant("Flink SQL, RocksDB", "streams.with_flink", "rocksdb", "flink", streams.equal),
            ),
        ),
        Comparison(
            "kafka",
            "The same from Kafka",
            "events",
            on_kafka.prepare,
            (
                Contestant("Dovetail, SQLite", "streams.with_dovetail_on_kafka"),
                Contestant(
                    "Quix Streams, RocksDB and changelog",
                    "streams.with_quixstreams",
                    environment="quixstreams",
                    agrees=on_kafka.same_last_hour,
                ),
            ),
            servers=("kafka",),
        ),
        Comparison(
            "online",
            "Features of a request",
            "candidates",
            online.prepare,
            (
                Contestant("Dovetail, SQLite", "online.with_dovetail", "sqlite"),
                Contestant("Dovetail, Redis", "online.with_dovetail", "redis", agrees=online.equal),
                Contestant("Feast, SQLite", "online.with_feast", "sqlite", "feast", online.equal),
                Contestant("Feast, Redis", "online.with_feast", "redis", "feast", online.equal),
            ),
            servers=("redis",),
        ),
    )
}
