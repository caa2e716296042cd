"""Every fault under load, on real Kafka, Redis and PostgreSQL with two workers: nothing lost, nothing twice.

``DOVETAIL_FAULT_SEEDS`` is how many seeds of each fault are run, one if not said; see `make faults`. With more,
there are more faults of a model on shards, too.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from scripts.servers import Kafka, PostgreSQL, Redis
from tests.faults.broker import Broker
from tests.faults.fleet import ApiProcess, Fleet
from tests.faults.harm import FAULTS, ON_SHARDS, Fault, redis_loses_its_last_writes
from tests.faults.over_http import HttpLoad, judge_told, kept_of
from tests.faults.trial import Load, Servers, Trial
from tests.faults.verdict import Verdict
from tests.faults.world import Urls, make_world

SEEDS = int(os.environ.get("DOVETAIL_FAULT_SEEDS", "1"))
FIRST = int(os.environ.get("DOVETAIL_FAULT_FIRST_SEED", "0"))

ALL = {**FAULTS, **ON_SHARDS} if SEEDS > 1 else FAULTS

pytestmark = [pytest.mark.services, pytest.mark.slow]

#: Runs one trial of a fault with a seed; with workers broken on purpose, where such are given.
Try = Callable[[Fault, int, Sequence[str]], Verdict]


@pytest.fixture
def attempt(kafka_server: Kafka, redis_server: Redis, postgresql_server: PostgreSQL, tmp_path: Path) -> Iterator[Try]:
    """A world of its own for each trial: topics, keys and a schema of its name; all its processes end with the test."""
    servers = Servers(kafka_server, redis_server, postgresql_server)
    engine = sa.create_engine(
        postgresql_server.url, poolclass=sa.NullPool
    )  # one connection may be killed with its server
    name = f"t{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    registry = f"{postgresql_server.url}?options=-csearch_path%3D{name}"
    urls = Urls(kafka_server.url, redis_server.url, redis_server.url, registry)

    def run(fault: Fault, seed: int, broken: Sequence[str] = ()) -> Verdict:
        world = make_world(tmp_path / name, name, urls, seed, spread=bool(seed % 2), **fault.world)
        built_in = [*fault.workers(np.random.default_rng([seed, 3])), *broken]
        broker = Broker(urls.broker)
        try:
            with ExitStack() as stack:
                fleet = stack.enter_context(
                    Fleet(world.folder, 2, faults=built_in, forever=fault.forever or bool(broken))
                )
                api = stack.enter_context(Fleet(world.folder, 2, process=ApiProcess)) if world.over_http else None
                load = Load(world, broker) if api is None else stack.enter_context(HttpLoad(world, broker, api, seed))
                verdict = Trial(world, broker, fleet, servers, load, api).run(fault.act, seed)
                if isinstance(load, HttpLoad):
                    verdict.expect("requests answered", len(load.told), world.counts["requests"])
                    verdict.expect("requests answered otherwise when asked again", load.told_otherwise, [])
                    judge_told(load.acknowledged, load.told, kept_of(world, broker), verdict)
                fleets = [fleet] if api is None else [fleet, api]
                if not broken:
                    others = [code for each in fleets for code in each.ended if code not in fault.ends]
                    verdict.expect("exit codes of processes that should not have ended so", others, [])
                if verdict.wrong:
                    verdict.wrong += [each.logs() for each in fleets]
        finally:
            broker.close()
        return verdict

    yield run
    servers.redis.start()
    servers.redis.flush()
    servers.postgresql.start()
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()
    shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize("fault", ALL)
def test_nothing_is_lost_and_nothing_counted_twice(attempt: Try, fault: str, seed: int) -> None:
    verdict = attempt(ALL[fault], seed, ())
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert verdict.counts["samples"] > 500
    assert verdict.counts["state values that are not NULL"] > 5_000
    if ALL[fault].world.get("staleness", "0") == "0" and ALL[fault].world.get("shards"):
        assert verdict.counts["models compared"] == 1


@pytest.mark.parametrize("broken", ["no-cas", "broker-positions"])
def test_a_broken_store_and_broken_resuming_are_noticed(attempt: Try, broken: str) -> None:
    """A harness that passes everything would be worth nothing."""
    verdict = attempt(Fault(redis_loses_its_last_writes), 0, [broken])
    assert any("differ" in wrong or "missing" in wrong or "not the recomputed" in wrong for wrong in verdict.wrong)
