"""Labels of scenes that a project does not have any more, and ids of requests that two of its scenes have."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.reports.archived import archived_snapshots
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.batch.label_audit import LabelAudit, lines_of
from dovetail.joiners.meanings.registered import retired_scenes
from dovetail.platform.config.load import Config
from dovetail.platform.duck.hermetic import hermetic_connection

__all__ = ["RETIRED", "shared_ids", "with_retired"]

#: The outcome of a label whose request was of a scene that the project does not have any more.
RETIRED = "retired_scene"
_KEY = ["request_id", "item_id"]


def with_retired(config: Config, stores: Stores, audited: LabelAudit, present: Sequence[pa.Table]) -> LabelAudit:
    """``audited`` with :data:`RETIRED` as outcome of labels that only a scene has that there is not any more.

    ``present`` are the snapshots of the scenes that there are: what they have is told of by them.
    """
    names = retired_scenes(config, stores.registry)
    found = [archived_snapshots(stores, shared=False, columns=_KEY, scene=name) for name in names]
    gone = [_keys(rows) for rows in found if rows.num_rows]
    if not gone:
        return audited
    theirs = pa.chunked_array([chunk for keys in gone for chunk in keys.chunks])
    keys, outcomes = _keys(audited.rows), audited.rows.column("outcome")
    is_label = pc.invert(pc.is_in(audited.rows.column("what"), pa.array(["snapshots", "samples"])))
    open_ = pc.and_(is_label, pc.is_in(outcomes, pa.array(["orphaned", "pending"])))
    retired = pc.and_(open_, pc.is_in(keys, theirs.drop_null()))
    for rows in present:
        if rows.num_rows:
            retired = pc.and_(retired, pc.invert(pc.is_in(keys, _keys(rows).drop_null())))
    at = audited.rows.column_names.index("outcome")
    rows = audited.rows.set_column(at, "outcome", pc.if_else(retired, RETIRED, outcomes))
    return LabelAudit(lines_of(rows), rows)


def shared_ids(project: Project, stores: Stores, examples: int = 3) -> list[str]:
    """Some ids of requests that snapshots of two scenes of the project have, in order; at most ``examples``.

    Raises:
        StoreError: an archive of snapshots cannot be read.
    """
    if len(project.scenes) < 2:
        return []
    connection = hermetic_connection()
    try:
        parts = []
        for number, scene in enumerate(project.scenes):
            rows = archived_snapshots(stores, shared=False, columns=["request_id"], scene=scene.config.scene)
            if rows.num_rows:
                connection.register(f"scene_{number}", rows)
                parts.append(f"SELECT DISTINCT request_id FROM scene_{number}")
        if len(parts) < 2:
            return []
        both = " UNION ALL ".join(parts)
        query = f"SELECT request_id FROM ({both}) GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT {examples}"
        return [str(one) for (one,) in connection.sql(query).fetchall()]
    finally:
        connection.close()


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    columns = [rows.column(name).cast(pa.string()) for name in _KEY]
    return pc.binary_join_element_wise(*columns, "\x1f")
