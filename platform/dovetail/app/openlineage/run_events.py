"""Events of a run by the specification of OpenLineage 2-0-2, as JSON: when it starts, and how it ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.extras import DISTRIBUTION
from dovetail.platform.masking import masked

__all__ = ["JobRun", "LineageDataset", "told_run"]

_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
#: By facet, the version of its schema.
_FACETS = {
    "SchemaDatasetFacet": "1-2-0", "OutputStatisticsOutputDatasetFacet": "1-0-2", "SQLJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1", "ProcessingEngineRunFacet": "1-1-1", "JobTypeJobFacet": "2-0-4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LineageDataset:
    """A dataset that a run reads or writes. ``namespace`` is where it is, ``rows`` how many were written, if known."""

    namespace: str
    name: str
    columns: pa.Schema | None = None
    rows: int | None = None


@dataclass(slots=True)
class JobRun:
    """A run that is going on; what it reads and writes is told when it ends."""

    inputs: list[LineageDataset] = field(default_factory=list)
    outputs: list[LineageDataset] = field(default_factory=list)


@contextmanager
def told_run(
    emit: Callable[[Mapping[str, Any]], None],
    clock: Clock,
    *,
    namespace: str,
    job: str,
    kind: str,
    inputs: Sequence[LineageDataset] = (),
    sql: str | None = None,
) -> Iterator[JobRun]:
    """The block as a run of ``job``: START before it, COMPLETE behind it, or FAIL with what it raises.

    ``kind`` is the kind of the job, like ``BACKFILL``; ``sql`` the text that it computes. ``emit`` raises nothing.
    """
    run, number = JobRun(inputs=list(inputs)), str(uuid.uuid4())
    release = version(DISTRIBUTION)
    producer = f"urn:dovetail:{release}"
    engine = _facet(producer, "ProcessingEngineRunFacet", name="dovetail", version=release)
    job_type = _facet(producer, "JobTypeJobFacet", processingType="BATCH", integration="DOVETAIL", jobType=kind)
    about = {"jobType": job_type}
    if sql is not None:
        about["sql"] = _facet(producer, "SQLJobFacet", query=sql, dialect="duckdb")

    def event(type_: str, error: BaseException | None = None) -> dict[str, Any]:
        facets = {"processing_engine": engine}
        if error is not None:
            said = masked(f"{type(error).__name__}: {error}")
            facets["errorMessage"] = _facet(
                producer, "ErrorMessageRunFacet", message=said, programmingLanguage="PYTHON"
            )
        moment = datetime.fromtimestamp(clock.now_us() / 1e6, UTC).isoformat().replace("+00:00", "Z")
        return {
            "eventType": type_, "eventTime": moment, "producer": producer, "schemaURL": _EVENT,
            "run": {"runId": number, "facets": facets},
            "job": {"namespace": namespace, "name": job, "facets": about},
            "inputs": [_dataset(producer, each) for each in run.inputs],
            "outputs": [_dataset(producer, each, written=True) for each in run.outputs],
        }  # fmt: skip

    emit(event("START"))
    try:
        yield run
    except BaseException as error:
        emit(event("FAIL", error))
        raise
    emit(event("COMPLETE"))


def _facet(producer: str, facet: str, **fields: Any) -> dict[str, Any]:
    return {
        "_producer": producer,
        "_schemaURL": f"{_SPEC}/facets/{_FACETS[facet]}/{facet}.json#/$defs/{facet}",
        **fields,
    }


def _dataset(producer: str, dataset: LineageDataset, *, written: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"namespace": dataset.namespace, "name": dataset.name, "facets": {}}
    if dataset.columns is not None:
        fields = [{"name": column.name, "type": str(column.type)} for column in dataset.columns]
        told["facets"]["schema"] = _facet(producer, "SchemaDatasetFacet", fields=fields)
    if written:
        known = dataset.rows is not None
        counted = _facet(producer, "OutputStatisticsOutputDatasetFacet", rowCount=dataset.rows) if known else None
        told["outputFacets"] = {} if counted is None else {"outputStatistics": counted}
    return told
