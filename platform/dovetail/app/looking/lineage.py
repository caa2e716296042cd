"""Lineage: the columns of streams, tables and requests that a view's output is made of, and the features of it.

A graph in four layers: ``source`` (a column of a stream, an offline table or the request), ``view`` (an output of a
view), ``feature`` (a column of the feature set) and ``input`` (of the model).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from dovetail.app.looking.one_value import aggregates_of
from dovetail.app.modelling import encoder_of
from dovetail.features import Project
from dovetail.features.plan.definitions import REQUEST, BatchView, FeatureSet, StreamView
from dovetail.features.stored.read_columns import columns_of
from dovetail.features.stored.widths import columns_named

__all__ = ["LAYERS", "Lineage", "Node", "lineage_of"]

Layer = Literal["source", "view", "feature", "input"]
LAYERS: tuple[Layer, ...] = ("source", "view", "feature", "input")


class Node(NamedTuple):
    """A column: ``owner`` is its stream, table, view or feature set, or ``request``, or the model."""

    layer: Layer
    owner: str
    name: str

    @property
    def key(self) -> str:
        """The node as one text, for addresses."""
        return f"{self.layer}:{self.owner}:{self.name}"


class Lineage(NamedTuple):
    """The nodes, layer by layer, and the edges from what is read to what reads it."""

    nodes: Sequence[Node]
    edges: Sequence[tuple[Node, Node]]

    def through(self, key: str) -> Lineage:
        """The part of it that lies up and down from a node; empty where there is no such node."""
        start = {node for node in self.nodes if node.key == key}
        up = _reached(start, [(b, a) for a, b in self.edges])
        down = _reached(start, self.edges)
        kept = up | down
        edges = [(a, b) for a, b in self.edges if (a in up and b in up) or (a in down and b in down)]
        return Lineage([node for node in self.nodes if node in kept], edges)


def lineage_of(project: Project, features: FeatureSet) -> Lineage:
    """The lineage of ``features``, and of the model that reads them, if that is the feature set that serves."""
    edges: list[tuple[Node, Node]] = []
    used: set[tuple[str, str]] = set()
    for column in features.columns:
        node = Node("feature", features.name, column.name)
        for relation, name in column.references:
            if relation == REQUEST:
                edges.append((Node("source", REQUEST, name), node))
            else:
                edges.append((Node("view", relation, name), node))
                used.add((relation, name))
    for relation, name in sorted(used):
        view = project.stream_views.get(relation) or project.batch_views[relation]
        sources = _of_stream_view(view, name) if isinstance(view, StreamView) else _of_batch_view(view)
        edges += [(source, Node("view", relation, name)) for source in sources]
    edges += _inputs(project, features)
    nodes = dict.fromkeys(node for edge in edges for node in edge)
    nodes |= dict.fromkeys(Node("feature", features.name, c.name) for c in features.columns if c.origin != "key")
    order = {column.name: at for at, column in enumerate(features.columns)}
    ranked = sorted(nodes, key=lambda n: (LAYERS.index(n.layer), n.owner, order.get(n.name, 0), n.name))
    return Lineage(ranked, list(dict.fromkeys(edges)))


def _of_stream_view(view: StreamView, output: str) -> Iterator[Node]:
    """The columns that an output's aggregates read; of a view that cleans events, all that the view reads."""
    if view.branches:
        yield from (Node("source", read.relation, read.column) for read in columns_of(view) if read.kind)
        return
    stream, texts = view.stream, [view.where]
    for aggregate in aggregates_of(view, output):
        inputs = [aggregate.input, *([] if aggregate.by is None else [aggregate.by])]
        texts += [text for i in inputs for text in (view.inputs[i].argument, view.inputs[i].filter)]
    named = {*view.entity, stream.event_time}.union(*(columns_named(text, stream.schema.arrow.names) for text in texts))
    yield from (Node("source", stream.name, name) for name in stream.schema.arrow.names if name in named)


def _of_batch_view(view: BatchView) -> Iterator[Node]:
    yield from (Node("source", read.relation, read.column) for read in columns_of(view))


def _inputs(project: Project, features: FeatureSet) -> list[tuple[Node, Node]]:
    model = project.config.model
    if model is None or features.name != project.feature_set.name:
        return []
    found = []
    for spec in encoder_of(model).inputs:
        node = Node("input", model.name, f"{spec.name} ({spec.kind})")
        found += [(Node("feature", features.name, column), node) for column in spec.reads]
    return found


def _reached(start: set[Node], edges: Iterable[tuple[Node, Node]]) -> set[Node]:
    following: dict[Node, list[Node]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    reached, waiting = set(start), list(start)
    while waiting:
        for node in following.get(waiting.pop(), ()):
            if node not in reached:
                reached.add(node)
                waiting.append(node)
    return reached
