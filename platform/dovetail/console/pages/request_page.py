"""The pages of one request: its candidates, one candidate with its score taken apart, one value with its events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.looking.one_request import OneRequest, find_request
from dovetail.app.looking.one_value import feature_set_of, trace_value
from dovetail.console.looked import Looked
from dovetail.console.pages.nowhere import Nowhere
from dovetail.features.batch.views import versions
from dovetail.joiners.snapshots.shape import REQUEST_COLUMN, SET_COLUMN
from dovetail.platform.errors import StoreError
from dovetail.platform.rows.intake import time_us

__all__ = ["Candidate", "candidate_page", "recent_requests", "request_page", "value_page"]

_CANDIDATES, _RECENT = 500, 20


class Candidate(NamedTuple):
    """A snapshot row among the candidates of its request; ``label`` is its samples', as (label, weight, emission)."""

    place: int
    item_id: str
    score: float | None
    version: int
    outcome: str
    labels: list[tuple[int, float, str]]


def recent_requests(looked: Looked) -> list[tuple[str, Any]]:
    """The newest archived requests by id, with their times; out of one file, so it costs the same however many are."""
    files = looked.stores.registry.files("snapshots")
    if not files:
        return []
    newest = max(files, key=lambda file: (file.day, file.last_offset))
    rows = looked.stores.offline.read(newest.path, ["request_id", "request_time"])
    rows = rows.slice(max(0, rows.num_rows - 20_000))
    found = rows.group_by("request_id").aggregate([("request_time", "max")])
    found = found.sort_by([("request_time_max", "descending")]).slice(0, _RECENT)
    return list(zip(found.column("request_id").to_pylist(), found.column("request_time_max").to_pylist(), strict=True))


async def request_page(looked: Looked, asked: str) -> dict[str, Any]:
    """The request ``asked`` names: by its id, or as ``REQUEST_ID/ITEM_ID``, which chooses a candidate.

    Raises:
        Nowhere: there is no snapshot of it, in the archive or behind it in the topic.
    """
    request, item = await _found(looked, asked)
    fates, outcomes = await asyncio.to_thread(looked.fates.of, request)
    return {
        "request": request,
        "item": item,
        "is_candidate": item is None or request.candidate(item) is not None,
        "context": _context(request),
        "candidates": _candidates(request, outcomes)[:_CANDIDATES],
        "fates": fates,
        "window": looked.project.config.labels.window,
        "made_by": _made_by(looked, request),
    }


async def candidate_page(looked: Looked, request_id: str, item: str, place: int | None) -> dict[str, Any]:
    """One candidate: its values, its score taken apart, its label, and what the model is trained for if it is another.

    Raises:
        Nowhere: there is no such candidate.
    """
    request, at = await _candidate(looked, request_id, item, place)
    snapshot, sample = request.snapshots.slice(at, 1), request.sample_of(at)
    row, missing = await asyncio.to_thread(looked.scores.features_of, snapshot, sample)
    score = await asyncio.to_thread(looked.scores.of, snapshot, row)
    fates, outcomes = await asyncio.to_thread(looked.fates.of, request)
    features = feature_set_of(looked.project, snapshot)
    values = [
        (column, row.column(column.name)[0].as_py() if column.name in row.column_names else None)
        for column in features.columns
        if column.origin != "key"
    ]
    model = looked.project.config.model
    return {
        "request": request,
        "item": item,
        "place": at,
        "learnt": None if model is None or model.label == "label" else model.label,
        "score": score,
        "values": values,
        "missing": missing,
        "features": features.name,
        "fates": [fate for fate in fates if fate.item_id == item],
        "became": outcomes[at],
        "bar": _bars([each["contribution"] for each in score.inputs]),
        "samples": sample.to_pylist(),
        "moment": snapshot.column("request_time")[0].as_py(),
        "places": {name: snapshot.column(name)[0].as_py() for name in ("_partition", "_offset", "_row")},
        "topic": looked.project.config.request.snapshots_topic,
    }


async def value_page(looked: Looked, request_id: str, item: str, place: int | None, feature: str) -> dict[str, Any]:
    """One value of a candidate, with the events that it has seen.

    Raises:
        Nowhere: there is no such candidate, or no such feature.
    """
    request, at = await _candidate(looked, request_id, item, place)
    snapshot = request.snapshots.slice(at, 1)
    if feature not in {column.name for column in feature_set_of(looked.project, snapshot).columns}:
        raise Nowhere(f"request {request_id!r} was answered without a feature {feature!r}")
    row, missing = await asyncio.to_thread(looked.scores.features_of, snapshot, request.sample_of(at))
    traced = await asyncio.to_thread(trace_value, looked.project, looked.stores, snapshot, row, feature)
    views = looked.project.stream_views
    return {
        "request": request,
        "item": item,
        "place": at,
        "traced": traced,
        "missing": missing,
        "moment": snapshot.column("request_time")[0].as_py(),
        "topics": {part.relation: _topics(looked, part.relation) for part in traced.parts if part.relation in views},
        "batch": {
            part.relation: _version(looked, part.relation, snapshot)
            for part in traced.parts
            if part.relation in looked.project.batch_views
        },
    }


def _bars(contributions: list[float]) -> Callable[[float], int]:
    """The length of a contribution's bar, of 60 at the most."""
    longest = max((abs(each) for each in contributions), default=0.0) or 1.0
    return lambda contribution: round(60 * abs(contribution) / longest)


async def _found(looked: Looked, asked: str) -> tuple[OneRequest, str | None]:
    request = await find_request(looked.project, looked.stores, looked.topics, asked)
    if request.snapshots.num_rows:
        return request, None
    before, slash, item = asked.rpartition("/")
    if slash:
        request = await find_request(looked.project, looked.stores, looked.topics, before)
        if request.snapshots.num_rows:
            return request, item
    more = "" if request.complete else "; not all rows that the archive does not have yet were looked through"
    raise Nowhere(f"no snapshot of a request {asked!r} is in the archive or its topic{more}")


async def _candidate(looked: Looked, request_id: str, item: str, place: int | None) -> tuple[OneRequest, int]:
    request = await find_request(looked.project, looked.stores, looked.topics, request_id)
    at = request.candidate(item, place)
    if at is None:
        raise Nowhere(f"request {request_id!r} had no candidate {item!r}")
    return request, at


def _candidates(request: OneRequest, outcomes: list[str]) -> list[Candidate]:
    names = ["item_id", "score", "model_version"]
    rows = request.snapshots.select(names).to_pylist()
    found = []
    for place, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        samples = request.sample_of(place).to_pylist() if outcome not in ("unexposed", "pending") else []
        labels = [(sample["label"], sample["weight"], sample["emission"]) for sample in samples]
        item = "" if row["item_id"] is None else str(row["item_id"])
        found.append(Candidate(place, item, row["score"], row["model_version"], outcome, labels))
    return sorted(found, key=lambda c: (c.score is None, -(c.score or 0.0), c.place))


def _context(request: OneRequest) -> dict[str, Any]:
    """The request's own columns that are the same for all its candidates."""
    snapshots: pa.Table = request.snapshots
    context = {"request_time": snapshots.column("request_time")[0].as_py()}
    if REQUEST_COLUMN in snapshots.column_names:
        struct = snapshots.column(REQUEST_COLUMN).combine_chunks()
        for field, values in zip(struct.type, struct.flatten(), strict=True):
            if (
                not field.name.startswith("_")
                and not pa.types.is_nested(field.type)
                and pc.count_distinct(values).as_py() <= 1
            ):
                context[field.name] = values[0].as_py()
    return context


def _made_by(looked: Looked, request: OneRequest) -> list[str]:
    if SET_COLUMN not in request.snapshots.column_names:
        return [looked.project.feature_set.name]
    return [name for name in pc.unique(request.snapshots.column(SET_COLUMN)).to_pylist() if name]


def _topics(looked: Looked, view: str) -> list[str]:
    return [branch.stream.topic for branch in looked.project.stream_views[view].reads]


def _version(looked: Looked, view: str, snapshot: pa.Table) -> Any:
    """The version of a batch view in force at the request, if it is there."""
    at = int(versions(looked.project.batch_views[view], time_us(snapshot, "request_time"))[0])
    try:
        known = looked.stores.registry.versions(view)
    except StoreError:
        return None
    return next((version for version in known if version.version_us == at), None)
