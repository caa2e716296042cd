"""All verdicts on both scenes, of a project whose worker has stopped."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dovetail.app.reports import audit_all, consistency_of, difference, join_archived, witness_of
from dovetail.app.reports.archived import archived_samples
from dovetail.app.storage import stores_of
from dovetail.app.worker import assemble, features_of
from dovetail.features import load
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS

ORDER = [(name, "ascending") for name in ("request_id", "item_id", "emission")]
#: Samples by scene and target, ``SCENE.TARGET``, without their positions.
Ended = dict[str, pa.Table]


def judged(folder: Path) -> Ended:
    """The samples of both scenes, sorted; all verdicts on them hold."""
    project, found = load(folder), Ended()
    worker = assemble(project)
    stores = worker.stores
    try:
        for scene in project.scenes:
            name = scene.config.scene
            verdict = consistency_of(scene, stores)
            assert (verdict.mismatched, verdict.compared > 0) == (0, True)
            witness = witness_of(scene, stores, 5)
            assert (witness.mismatched, witness.compared > 0) == (0, True)
            for target in scene.config.labels.every_target():
                made = join_archived(scene, stores, features_of(scene, stores), target=target)
                assert difference(stores, made, target=target, scene=name).equal
                audit = audit_all(project, worker, target, name)
                assert audit.result.balanced, audit.result.unbalanced
                samples = archived_samples(stores, target, name)
                positions = [c for c in (*OWN_COLUMNS, *SOURCE_COLUMNS) if c in samples.column_names]
                found[f"{name}.{target}"] = samples.drop_columns(positions).sort_by(ORDER)
            assert stores_of(scene.config, stores).models.versions(), "its model was trained and published"
        return found
    finally:
        stores.close()
