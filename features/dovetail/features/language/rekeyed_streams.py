"""``[rekeyed.*]``: streams that Dovetail makes of others, with the columns of the views that they are enriched from.

A re-keyed stream may be made of another one, and a streaming view over the stream that it is made of may enrich it. So
streams and such views are read in turn, each when all that it reads is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError
from dovetail.features.language.source import Source, nearest, quoted
from dovetail.features.language.streaming_views import is_streaming, parse_stream_view
from dovetail.features.plan.aggregates import MAX_LISTED
from dovetail.features.plan.definitions import BatchView, Stream, StreamView
from dovetail.features.plan.rekeyed import carried
from dovetail.platform.config.load import Config
from dovetail.platform.config.stream import RekeyedConfig
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema

__all__ = ["with_rekeyed"]

#: An error at a section of the configuration: the section, what is wrong, what to do.
Wrong = Callable[[str, str, str], DefinitionError]


def with_rekeyed(
    config: Config,
    streams: Mapping[str, Stream],
    batch_views: Mapping[str, BatchView],
    over_streams: Mapping[str, Source],
    wrong: Wrong,
) -> tuple[dict[str, Stream], dict[str, StreamView]]:
    """``streams`` and the re-keyed ones of ``config``, and the streaming views that some are enriched from.

    Args:
        over_streams: the statements that read a stream, by name.
        wrong: makes an error at a section of ``dovetail.toml``.

    Raises:
        DefinitionError: a re-keyed stream or such a view is wrong, or they are made of each other.
    """
    made, views, left = dict(streams), dict[str, StreamView](), dict(config.rekeyed)
    strictly = config.features.strictly_before
    while left:
        ready = [
            name
            for name, declared in left.items()
            if declared.stream in made
            and not any(is_streaming(over_streams[view], left) for view in declared.enrich if view in over_streams)
        ]
        if not ready:
            circle = _circle(left, over_streams)
            others = (
                f"{', '.join(sorted(circle))} are made of each other"
                if circle[1:]
                else f"{circle[0]} is made of itself"
            )
            raise wrong(
                f"rekeyed.{circle[0]}",
                others,
                f"let {'one of them' if circle[1:] else 'it'} be of a stream in [streams.*], enriched from views over "
                "that stream",
            )
        binder = Binder({name: stream.schema.arrow for name, stream in made.items()})
        for name in ready:
            wanted = [view for view in left.pop(name).enrich if view in over_streams and view not in views]
            views |= {
                view: parse_stream_view(view, over_streams[view], made, binder, strictly_before=strictly)
                for view in wanted
            }
            made[name] = _Reader(config, made, {**batch_views, **views}, over_streams, wrong).stream(name)
    return made, views


def _circle(left: Mapping[str, RekeyedConfig], over_streams: Mapping[str, Source]) -> list[str]:
    """Re-keyed streams that are made of each other, of some that each wait for another one of them."""
    path = [next(iter(left))]
    while True:
        declared = left[path[-1]]
        read = [declared.stream, *(name for name in left if _enriched_from(declared, name, over_streams))]
        following = next(name for name in read if name in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _enriched_from(declared: RekeyedConfig, name: str, over_streams: Mapping[str, Source]) -> bool:
    return any(is_streaming(over_streams[view], {name}) for view in declared.enrich if view in over_streams)


class _Reader:
    def __init__(
        self,
        config: Config,
        streams: Mapping[str, Stream],
        views: Mapping[str, BatchView | StreamView],
        others: Iterable[str],
        wrong: Wrong,
    ) -> None:
        self._config, self._streams, self._views, self._wrong = config, streams, views, wrong
        self._others = others

    def stream(self, name: str) -> Stream:
        declared = self._config.rekeyed[name]
        source = self._streams[declared.stream]
        views = tuple(self._enriching(name, source, view) for view in declared.enrich)
        made = [field.with_nullable(True) for view in views for field in view.output_schema]
        schema = replace(source.schema, name=name, arrow=pa.schema([*source.schema.arrow, *made]))
        self._refuse_taken(name, schema)
        key = schema.field(declared.key, wanted_by=f"the key of re-keyed stream {name}")
        if pa.types.is_nested(key.type):
            raise DefinitionError(
                f"column {key.name}, the key of re-keyed stream {name}, is {key.type}, which makes no key",
                file=source.schema.file,
                line=source.schema.line,
                remedy=f"name a column that is no list or struct as key of [rekeyed.{name}] in dovetail.toml",
            )
        lateness = declared.allowed_lateness
        return Stream(
            schema=schema,
            topic=declared.topic or name,
            event_time=source.event_time,
            key=declared.key,
            allowed_lateness_us=source.allowed_lateness_us if lateness is None else lateness,
            max_ahead_us=source.max_ahead_us,
            rekeyed_from=declared.stream,
            enriched=views,
            made_in=(
                *source.made_in,
                *((made.name.lower(), view.file) for view in views for made in view.output_schema),
            ),
        )

    def _enriching(self, name: str, stream: Stream, view: str) -> BatchView | StreamView:
        """The view ``view``, which re-keyed stream ``name`` is enriched from, by columns of ``stream``."""
        if view not in self._views:
            what = f"enrich names {view}, which is no batch view or streaming view"
            hint = nearest(view, [*self._views, *self._others])
            remedy = f"{hint}; a batch view is a SELECT over [tables.*], a streaming view one FROM {stream.name}"
            raise self._wrong(f"rekeyed.{name}", what, remedy)
        found = self._views[view]
        if isinstance(found, StreamView):
            found = self._at_events(name, stream, found)
        else:
            self._refuse_other_types(name, stream, found)
        for made in found.output_schema:
            if not carried(made.type):
                raise self._wrong(
                    f"rekeyed.{name}",
                    f"{made.name} of view {view} is {made.type}, which no column of a stream can be",
                    f"CAST it in {found.file} to a type that columns are declared with, like BIGINT or DECIMAL(18,2); "
                    "of a MAP, take a number like map_values(m)[1] or cardinality(m)",
                )
        return found

    def _refuse_other_types(self, name: str, stream: Stream, view: BatchView) -> None:
        for column, type_ in zip(view.entity, view.entity_types, strict=True):
            field = stream.schema.field(column, wanted_by=f"batch view {view.name}, which enriches {name},")
            if field.type != type_:
                raise self._wrong(
                    f"rekeyed.{name}",
                    f"{column} is {field.type} in stream {stream.name} and {type_} in batch view {view.name}",
                    f"CAST it in {view.file}, or declare the same type",
                )

    def _at_events(self, name: str, stream: Stream, view: StreamView) -> StreamView:
        """A streaming view that has one value at each row of ``stream``, whatever is read when: where it is exact."""
        section, of = f"rekeyed.{name}", f"enrich names {view.name}"
        if view.stream_names != (stream.name,) or view.branches:
            reads = ", ".join(view.stream_names)
            other = next((made for made in view.stream_names if made != stream.name), stream.name)
            raise self._wrong(
                section,
                f"{of}, which reads {reads}{' by SELECTs inside FROM' if view.branches else ''}: a row has the values "
                f"of views FROM {stream.name} itself, which it is a row of",
                f"write {view.name} FROM {stream.name}, with WHERE and FILTER"
                if other == stream.name
                else f'write {view.name} FROM {stream.name}, or stream = "{other}"',
            )
        if stream.key not in view.entity:
            raise self._wrong(
                section,
                f"{of}, a view of {', '.join(view.entity)}, whose events are in all partitions of {stream.name}, which "
                f"is keyed by {stream.key}",
                f'declare [rekeyed.NEW] stream = "{stream.name}", key = "{view.entity[0]}", write {view.name} FROM '
                f'NEW, and stream = "NEW" in [{section}]: a re-keyed stream may be re-keyed again',
            )
        long = [a.output for a in view.aggregates if max(a.k or 0, view.windows[a.window].rows or 0) > MAX_LISTED]
        if long:
            raise self._wrong(
                section,
                f"{of}, whose {long[0]} holds more than {MAX_LISTED} events",
                f"ask for at most {MAX_LISTED}: each row of {name} would have the list",
            )
        return self._without_errors(section, view)

    def _without_errors(self, section: str, view: StreamView) -> StreamView:
        """``view`` with NULL in each output for which there is no value, like a CAST that overflows: the event is read
        by others, and is none that could be turned away any more."""
        derived = tuple(replace(each, sql=f"TRY({each.sql}\n)") for each in view.derived)
        relation = Binder({"aggregates": view.aggregate_schema})
        for each in derived:
            try:
                relation.describe(f"SELECT {each.sql} FROM {quoted('aggregates')}")
            except BindError as error:
                raise self._wrong(
                    section,
                    f"{each.output} of {view.name} cannot be evaluated without an error ending it: {error}",
                    f"write {each.output} without it, and compute it in a view over the re-keyed stream",
                ) from error
        return replace(view, derived=derived)

    def _refuse_taken(self, name: str, schema: TableSchema) -> None:
        """Refuse a re-keyed stream with two columns of one name."""
        lowered = [column.lower() for column in schema.arrow.names]
        for column in schema.arrow.names:
            if lowered.count(column.lower()) > 1:
                raise self._wrong(
                    f"rekeyed.{name}",
                    f"two columns named {column}: of the stream and of the views in enrich",
                    "rename the view's with AS",
                )
