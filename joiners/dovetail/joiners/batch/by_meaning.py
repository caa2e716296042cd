"""Samples and the audit in batch where settings have changed: each snapshot row by the meaning that it bears."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.batch.label_audit import LabelAudit, Owners, audit_labels, lines_of
from dovetail.joiners.batch.whole_samples import batch_samples
from dovetail.joiners.contracts import BatchFeatures
from dovetail.joiners.meanings.known import Meanings, marks_of
from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.platform.rows.positions import LANE, pack

__all__ = ["audit_by_meaning", "samples_by_meaning"]


def samples_by_meaning(
    snapshots: pa.Table,
    labels: Mapping[str, pa.Table],
    meanings: Meanings,
    target: str,
    features: BatchFeatures,
    *,
    allowed_lateness_us: int,
) -> pa.Table:
    """All samples of a target, as :func:`batch_samples` makes them of the snapshots of each meaning.

    ``labels`` are the logs of every kind of any meaning. A column that only some meanings have is NULL elsewhere.
    """
    made = [
        batch_samples(
            rows,
            {kind: labels[kind] for kind in meaning.kinds},
            meaning.targets[target],
            features,
            allowed_lateness_us=allowed_lateness_us,
            early_us=meaning.early_us,
            rules=meaning.rules,
        )
        for meaning, rows in _each(snapshots, meanings, target)
    ]
    return pa.concat_tables(made, promote_options="permissive") if len(made) > 1 else made[0]


def audit_by_meaning(
    snapshots: pa.Table,
    labels: Mapping[str, pa.Table],
    samples: pa.Table,
    meanings: Meanings,
    target: str,
    *,
    allowed_lateness_us: int,
    released: Mapping[tuple[int, int], int],
    others: pa.Table | None = None,
    strays: bool = True,
) -> LabelAudit:
    """The audit of a target, as :func:`audit_labels` makes it of the snapshots of each meaning.

    A label is told of by the meaning of the first snapshot row of its key; one without, by that in force, if ``strays``
    are told of. ``others``: request_id and item_id of snapshots of other scenes, of whose labels nothing is told.
    """
    current = meanings.of(meanings.current.fingerprint, target)
    groups = list(_each(snapshots, meanings, target))
    if all(meaning.fingerprint != current.fingerprint for meaning, _ in groups):
        groups.append((current, snapshots.slice(0, 0)))
    numbers = {meaning.fingerprint: number for number, (meaning, _) in enumerate(groups)}
    of_row = np.array([numbers[mark] for mark in _fingerprints(snapshots, meanings, target).tolist()], dtype=np.int64)
    heads, owner = _heads(snapshots, of_row)
    if others is not None:
        heads, owner = _with_others(heads, owner, others)
    of_sample = _of_samples(samples, snapshots, of_row, numbers[current.fingerprint])
    found = [
        audit_labels(
            rows,
            labels,
            samples.filter(pa.array(of_sample == number)),
            meaning.targets[target],
            allowed_lateness_us=allowed_lateness_us,
            early_us=meaning.early_us,
            released=released,
            rules=meaning.rules,
            owners=Owners(heads, owner == number, strays=strays and meaning.fingerprint == current.fingerprint),
        )
        for number, (meaning, rows) in enumerate(groups)
    ]
    if len(found) == 1:
        return found[0]
    together = pa.concat_tables([one.rows for one in found])
    return LabelAudit(lines_of(together), together)


def _each(snapshots: pa.Table, meanings: Meanings, target: str) -> Iterator[tuple[LabelMeaning, pa.Table]]:
    """Each meaning that rows are judged by, in the order of its first row, with those rows; at least one."""
    marks = _fingerprints(snapshots, meanings, target)
    distinct, first = np.unique(marks, return_index=True)
    if len(distinct) <= 1:
        yield meanings.of(int(marks[0]) if len(marks) else meanings.current.fingerprint, target), snapshots
        return
    for mark in distinct[np.argsort(first)].tolist():
        yield meanings.of(mark, target), snapshots.filter(pa.array(marks == mark))


def _fingerprints(snapshots: pa.Table, meanings: Meanings, target: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The fingerprint of the meaning by which each row is judged, int64 [n]."""
    marks, index = np.unique(marks_of(snapshots), return_inverse=True)
    judged = [meanings.of(mark, target).fingerprint for mark in marks.tolist()]
    return np.array(judged, dtype=np.int64)[index]


def _heads(
    snapshots: pa.Table, of_row: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> tuple[pa.Table, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The keys of snapshots, and the number of the meaning of the first row of each.

    Rows without an item share one: no label is theirs.
    """
    here = pack(snapshots.column("_offset").to_numpy(), snapshots.column("_row").to_numpy())
    order = np.argsort(here, kind="stable")
    codes = pc.dictionary_encode(_keys(snapshots).combine_chunks(), null_encoding="encode").indices.to_numpy()
    _, first = np.unique(codes[order], return_index=True)
    rows = order[first]
    return snapshots.select(["request_id", "item_id"]).take(pa.array(rows)), of_row[rows]


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    columns = [rows.column(name).cast(pa.string()) for name in ("request_id", "item_id")]
    return pc.binary_join_element_wise(*columns, "\x1f")


def _with_others(
    heads: pa.Table, owner: np.ndarray[tuple[int], np.dtype[np.int64]], others: pa.Table
) -> tuple[pa.Table, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The keys of snapshots, with those that only ``others`` have, which belong to no meaning here: -1."""
    elsewhere = others.select(heads.column_names).group_by(heads.column_names).aggregate([])
    elsewhere = elsewhere.filter(pc.invert(pc.is_in(_keys(elsewhere), _keys(heads))))
    nobody = np.full(elsewhere.num_rows, -1, dtype=np.int64)
    return pa.concat_tables([heads, elsewhere]), np.concatenate([owner, nobody])


def _of_samples(
    samples: pa.Table, snapshots: pa.Table, of_row: np.ndarray[tuple[int], np.dtype[np.int64]], stray: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The number of the meaning of each sample's snapshot row; ``stray`` where there is none."""
    at = pc.index_in(_places(samples, "_source"), value_set=_places(snapshots, ""))
    known = pc.fill_null(at, -1).to_numpy(zero_copy_only=False)
    return np.where(known >= 0, of_row[known] if len(of_row) else stray, stray)


def _places(rows: pa.Table, prefix: str) -> pa.Array:
    partition = rows.column(f"{prefix}_partition").to_numpy() % LANE
    parts = [partition, rows.column(f"{prefix}_offset").to_numpy(), rows.column(f"{prefix}_row").to_numpy()]
    return pc.binary_join_element_wise(*(pa.array(part).cast(pa.string()) for part in parts), "/")
