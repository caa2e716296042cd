"""Whole samples in batch, from archived snapshots and label logs: what ``dovetail join`` makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from dovetail.joiners.assemble import assemble_samples
from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.contracts import BatchFeatures
from dovetail.joiners.policies import EMISSIONS
from dovetail.joiners.policies.policy import NEVER
from dovetail.joiners.values.kind_rules import KindRule
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.rows.positions import LANE, SOURCE_COLUMNS, with_source_positions

__all__ = ["batch_samples", "samples_of"]


def batch_samples(
    snapshots: pa.Table,
    labels: Mapping[str, pa.Table],
    policy: PolicyConfig,
    features: BatchFeatures,
    *,
    allowed_lateness_us: int,
    early_us: int,
    rules: Mapping[str, KindRule] | None = None,
) -> pa.Table:
    """All samples that ``policy`` makes of ``snapshots`` (with own positions) and the label logs by kind.

    Keys, labels and weights come from :func:`join_samples`; features are the snapshot's and the batch features as of
    the request. Columns and types are the stream's; rows stand in order of lane and snapshot.
    """
    joined = join_samples(
        snapshots, labels, policy, allowed_lateness_us=allowed_lateness_us, early_us=early_us, rules=rules
    )
    return samples_of(snapshots.take(joined.column("_at")), joined, features, kinds=labels, rules=rules)


def samples_of(
    chosen: pa.Table,
    joined: pa.Table,
    features: BatchFeatures,
    *,
    kinds: Iterable[str],
    rules: Mapping[str, KindRule] | None = None,
) -> pa.Table:
    """Samples, a row for each of ``joined`` (rows of :func:`join_samples`), of its snapshot row in ``chosen``."""
    lanes = joined.column("_lane").to_numpy()
    chosen = with_source_positions(chosen.combine_chunks())
    at = chosen.column_names.index(SOURCE_COLUMNS[0])
    partitions = chosen.column(at).to_numpy() + (lanes * LANE).astype(np.int32)
    chosen = chosen.set_column(at, chosen.schema.field(at), pa.array(partitions, pa.int32()))
    emission = np.array([EMISSIONS.index(name) for name in joined.column("emission").to_pylist()], dtype=np.int8)
    times = {}
    for kind in kinds:
        column = joined.column(f"{kind}_time").cast(pa.timestamp("us")).cast(pa.int64())
        times[kind] = column.fill_null(NEVER).to_numpy()
    extra = {}
    for name in ("elapsed_days", "return_day"):
        if name in joined.column_names:
            column = joined.column(name)
            missing = column.is_null().to_numpy()
            extra[name] = np.ma.MaskedArray(column.fill_null(0).to_numpy().astype(np.int16), mask=missing)
    return assemble_samples(
        chosen,
        features,
        label=joined.column("label").to_numpy(),
        weight=joined.column("weight").to_numpy(),
        emission=emission,
        extra=extra,
        times=times,
        values={
            value.name: joined.column(value.name).cast(value.type)
            for rule in (rules or {}).values()
            for value in rule.values
        },
    )
