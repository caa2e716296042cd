"""Lists and maps as features: the same bits served, archived, recomputed, backfilled, sampled and trained on."""

from __future__ import annotations

import asyncio
from functools import partial

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dovetail.app.jobs import BackfillRequest, batch_versions, open_backfill
from dovetail.app.modelling import encoder_of
from dovetail.app.reports import consistency_of
from dovetail.app.reports.archived import archived_snapshots
from dovetail.app.reports.rejoin import difference, join_archived
from dovetail.app.storage import load_table
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.stored.consistency import equal_bits
from dovetail.joiners.label_agent import LabelStage
from dovetail.joiners.meanings.judging import SampleRule
from dovetail.joiners.policies import policy_of
from dovetail.joiners.sample_agent import LabelClock, SampleStage, SampleTarget, lanes_of
from dovetail.joiners.values.kind_rules import KindRule, LabelNeeds
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings import shared as shared_values
from dovetail.platform.rows.encodings.shared import SHARED_BACK, shared_names, spread
from dovetail.platform.rows.intake import Intake
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.testing import run_stage
from tests.features.stored.stored_world import World

USERS = """
SELECT user_id,
       arg_max(price, event_time, 3) OVER day                   AS prices,
       last_distinct(list(kind) OVER day, 2)                    AS kinds,
       top_k(histogram(kind) OVER day, 1)                       AS usual,
       histogram(kind) OVER day                                 AS counts,
       sum_by(list({'k': kind, 'v': price}) OVER day)           AS spent,
       avg_by(list({'k': kind, 'v': price}) OVER day)           AS mean,
       arg_max(kind, event_time, 2) OVER five                   AS recent,
       arg_max({'kind': kind, 'price': price, 'at': event_time}, event_time, 3) OVER day AS history
FROM events
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       five AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)
"""
PROFILE = """
SELECT item_id, max(category) AS category, list(category ORDER BY category) AS categories,
       map {'id': item_id} AS numbers, {'category': max(category), 'n': count(*)} AS summary
FROM items GROUP BY item_id
"""
RANKING = """
SELECT request_id, item_id, users.prices, users.kinds, users.usual, users.counts, users.spent, users.mean, users.recent,
       users.history, list_transform(users.history, lambda x: x.price) AS paid,
       len(users.prices)                                        AS many,
       list_contains(users.kinds, 'click')                      AS clicked,
       array_to_string(users.recent, ',')                       AS trail,
       list_slice(users.prices, 1, 2)                           AS newest,
       list_transform(users.prices, lambda x: x * item_id)       AS scaled,
       users.counts['click']                                    AS clicks,
       cardinality(users.counts)                                AS sorts,
       element_at(users.spent, 'view')                          AS spent_viewing,
       map_entries(users.mean)                                  AS means,
       [users.kinds, users.recent]                              AS nested,
       {'kinds': users.kinds, 'item': item_id}                  AS both,
       profile.categories, profile.numbers, profile.summary
FROM request LEFT JOIN users USING (user_id) LEFT JOIN profile USING (item_id)
"""
MODEL = {
    "inputs": [
        {"column": "prices", "kind": "list", "length": 3},
        {"column": "recent", "kind": "list", "length": 2},
        {"column": "means", "kind": "list", "length": 2},
        {"column": "many", "kind": "numeric"},
    ]
}


@pytest.fixture
def nested(world: World) -> World:
    """Sixty hours of the stored world, whose features are lists, maps and structs."""
    world.write("users", USERS)
    world.write("profile", PROFILE)
    world.write("ranking", RANKING)
    world.load(model=MODEL)
    world.live(60)
    return world


def snapshots_of(world: World) -> pa.Table:
    return archived_snapshots(world.stores)


def recomputed(world: World) -> pa.Table:
    """Every feature of every archived request, by DuckDB over everything that happened."""
    stores, config = world.stores, world.project.config
    flat = flatten_requests(read_dataset(stores.registry, stores.offline, "requests"))
    log = read_dataset(stores.registry, stores.offline, "events")
    return evaluate_feature_set(
        world.project, world.project.feature_set, flat, {"events": log}, lambda table: load_table(config, table)
    )


def same(one: pa.Table, other: pa.Table) -> None:
    assert one.schema.equals(other.schema)
    for name in one.column_names:
        assert equal_bits(one.column(name), other.column(name)).all(), name


def test_served_values_are_what_duckdb_makes_of_the_archive(nested: World) -> None:
    found = consistency_of(nested.project, nested.stores)
    assert found.mismatched == 0
    late = {f.feature for f in found.features if f.late}
    assert late >= {"prices", "counts", "spent", "recent", "nested", "scaled", "history"}, (
        "late events explain, in nested values too"
    )
    served = snapshots_of(nested)
    for name in ("prices", "counts", "mean", "nested", "both", "history"):
        assert served.schema.field(name).type == nested.project.feature_set.schema.field(name).type
        assert served.column(name).null_count < served.num_rows
    assert max(pc.list_value_length(served.column("prices")).to_pylist(), key=lambda n: n or 0) == 3


def test_the_archive_keeps_once_what_candidates_share(nested: World) -> None:
    stores = nested.stores
    files = [stores.offline.read(file.path) for file in stores.registry.files("snapshots")]
    shared = shared_names(files[0].column_names)
    assert {"prices", "counts", "history", "paid", "nested"} <= set(shared)
    assert not {"item_id", "scaled", "both", "many"} & set(shared), "these read the candidate, or are numbers"
    for rows in files:
        firsts = rows.column(SHARED_BACK).to_numpy() == 0
        assert firsts.sum() == len(pc.unique(rows.column("request_id")))
        assert not rows.filter(pa.array(~firsts)).column("_shared.prices").is_valid().to_numpy().any()
    lighter = archived_snapshots(stores, shared=False)
    assert lighter.num_rows == snapshots_of(nested).num_rows
    assert set(snapshots_of(nested).column_names) - set(lighter.column_names) == set(shared)


def test_the_verdict_does_not_depend_on_where_shared_values_are_cut(
    nested: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = consistency_of(nested.project, nested.stores)
    monkeypatch.setattr(shared_values, "_BYTES_AT_ONCE", 2_000)
    assert consistency_of(nested.project, nested.stores).to_json() == whole.to_json()


def test_a_value_changed_inside_a_list_or_map_is_found(nested: World) -> None:
    path = nested.stores.offline.path(nested.stores.registry.files("snapshots")[0].path)
    rows = pq.read_table(path)
    for name, wrong in (("_shared.mean", [("click", 1.0)]), ("_shared.prices", [])):
        at = rows.schema.get_field_index(name)
        values = [wrong, *rows.column(name).to_pylist()[1:]]
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    pq.write_table(rows, path)
    found = {f.feature: f.mismatched for f in consistency_of(nested.project, nested.stores).features}
    assert {name for name, wrong in found.items() if wrong} == {"mean", "prices"}


def test_a_backfill_writes_them(nested: World) -> None:
    out = nested.folder / "out"
    open_backfill(nested.project, nested.stores, BackfillRequest("ranking", str(out))).run()
    rows = ds.dataset(out, format="parquet").to_table()
    same(rows.drop_columns(["request_time"]), recomputed(nested))
    # Any reader of Parquet sees lists and maps.
    files = f"'{out}/*/*.parquet'"
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE FROM {files})").fetchall()
    types = dict(found)
    assert types["counts"] == "MAP(VARCHAR, UBIGINT)"
    assert types["scaled"].endswith("[]")
    served = nested.folder / "served"
    asked = BackfillRequest("ranking", str(served), visibility="as_served")
    open_backfill(nested.project, nested.stores, asked).run()
    names = [c.name for c in nested.project.feature_set.columns_of("key", "request", "streaming")]
    by_key = [("request_id", "ascending"), ("item_id", "ascending")]
    then = ds.dataset(served, format="parquet").to_table()
    order, other = (
        pc.sort_indices(rows.select(["request_id", "item_id"]), by_key) for rows in (then, snapshots_of(nested))
    )
    same(then.take(order).select(names), snapshots_of(nested).take(other).select(names))


def test_columns_are_added_to_samples_that_have_lists(nested: World) -> None:
    first, second = nested.folder / "first", nested.folder / "second"
    one = BackfillRequest("ranking", str(first), columns=["prices", "counts"])
    open_backfill(nested.project, nested.stores, one).run()
    other = BackfillRequest("ranking", str(second), samples=str(first), columns=["mean", "numbers"])
    open_backfill(nested.project, nested.stores, other).run()
    rows = ds.dataset(second, format="parquet").to_table()
    names = ["request_id", "item_id", "prices", "counts", "mean", "numbers"]
    same(rows.select(names), recomputed(nested).select(names))


def samples_of(world: World) -> pa.Table:
    """The samples that label and sample agent make of the snapshots: every first item exposed, some clicked."""
    project, stores, log, moved = world.project, world.stores, world.log, Signal()
    taken = snapshots_of(world)
    shown = taken.filter(pc.equal(taken.column("item_id"), 0)).select(["request_id", "item_id", "request_time"])
    shown = shown.rename_columns(["request_id", "item_id", "event_time"])
    for kind, of in (("exposure", shown), ("click", shown.slice(0, 3))):
        log.append([Outgoing(kind, wire.encode(of), partition=0)])
        intake = Intake(project.label_schemas[kind], "event_time", None)
        labels = LabelStage(
            kind, kind, intake, stores.labels,
            allowed_lateness_us=0, needed=partial(LabelNeeds, KindRule(kind), 10**15),
            dead_letter_topic="dead", moved=moved,
        )  # fmt: skip
        asyncio.run(run_stage(labels, log))
    (lane,) = lanes_of("", "snapshots", ())
    server = OnlineFeatures(project.feature_set, project.stream_views, stores.online, batch_versions(project, stores))
    samples = SampleStage(
        SampleTarget(
            lane,
            "samples",
            lambda _: SampleRule(policy_of(project.config.labels), tuple(project.config.labels.streams), 0),
        ),
        stores.labels,
        server,
        LabelClock(lambda: 1 << 60, moved),
    )
    asyncio.run(run_stage(samples, log))
    made = log.poll("samples", 0, 0)
    assert made is not None
    return spread(wire.decode_arrow(made))


def test_samples_have_what_was_served_and_a_model_reads_it(nested: World) -> None:
    samples = samples_of(nested)
    taken = snapshots_of(nested)
    served = taken.filter(pc.equal(taken.column("item_id"), 0))
    assert samples.num_rows == served.num_rows > 10
    kept = [c.name for c in nested.project.feature_set.columns_of("request", "streaming")]
    same(samples.select(kept), served.select(kept))
    assert samples.column("categories").to_pylist() == [["c0"]] * samples.num_rows
    assert samples.column("numbers").to_pylist() == [[("id", 0)]] * samples.num_rows
    assert nested.project.config.model is not None
    encoded = encoder_of(nested.project.config.model).encode(samples)
    assert encoded.slots.shape == (samples.num_rows, 3 + 2 + 2 + 1 + 1)
    assert len(set(encoded.slots[:, 0].tolist())) > 3
    for dataset, rows in (("samples", samples), ("snapshots", taken)):
        path = nested.folder / f"{dataset}.parquet"
        pq.write_table(rows, path)
        same(pq.read_table(path), rows)


def test_the_batch_join_makes_the_same_samples(nested: World) -> None:
    samples_of(nested)
    nested.archive("exposure", "click", "samples")
    project, stores = nested.project, nested.stores
    server = OnlineFeatures(project.feature_set, project.stream_views, stores.online, batch_versions(project, stores))
    found = difference(stores, join_archived(project, stores, server))
    assert found.equal, found
    assert found.compared > 10
