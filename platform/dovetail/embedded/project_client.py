"""A project as a program uses it: features of the past, samples, rows sent, requests ranked.

Imports what a method needs when it is called: a program that only reads definitions loads no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dovetail.features.project import Project
from dovetail.features.project import load as load_project

if TYPE_CHECKING:
    from dovetail.embedded.program_flow import EmbeddedFlow

__all__ = ["ProjectClient", "load"]


@dataclass(frozen=True, slots=True)
class ProjectClient(Project):
    """A :class:`~dovetail.features.project.Project` with its data: what was sent, what is known, what was made of it.

    Rows are given as a ``pyarrow.Table``, as whatever speaks the Arrow PyCapsule interface (a data frame of pandas or
    Polars, a relation of DuckDB), or as a list of dictionaries. Answers are Arrow tables, which these take.
    """

    def features(
        self,
        requests: Any,
        *,
        columns: Sequence[str] = (),
        feature_set: str | None = None,
        events: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """The features of past requests as of their times: what serving would have said had every event come in time.

        Row i of the answer is of row i of ``requests``, when these are one row per candidate; requests as they travel,
        with ``candidates``, give a row for each candidate, in order. Events are those that are archived and those that
        are only in their topic yet, each once; nothing is recorded but versions of batch views. For many days and more
        rows than memory holds, use ``dovetail backfill``.

        Args:
            requests: as ``CREATE TABLE request`` declares them, or one row per candidate with the columns that the
                features read.
            columns: the features wanted, beside ``request_id`` and ``item_id``; all if empty.
            feature_set: its name; the one that serves, if left out.
            events: by stream, events to use in place of the log's, in order of arrival.

        Raises:
            ConfigError: an unknown feature set, column or stream.
            WireError: a request or event is not as declared (which, and why), or an expression has no value for it.
            StateError: events have left their topic and are not archived.
        """
        from dovetail.embedded.past_features import past_features

        return past_features(self, requests, feature_set, columns, events or {})

    def samples(
        self,
        days: tuple[str, str] | None = None,
        columns: Sequence[str] = (),
        where: str | None = None,
        *,
        target: str = "",
        topic: bool = True,
    ) -> pa.Table:
        """The samples made so far, each once, partition by partition in their order.

        Args:
            days: the first and the last UTC day of their requests, like ``("2024-03-01", "2024-03-07")``.
            columns: those given out; all if empty.
            where: a condition in DuckDB SQL on the columns of a sample, given out or not, like ``"label = 1"``.
            target: a further target of ``[labels.targets]``.
            topic: also those that are not archived yet; False needs no broker.

        Raises:
            ConfigError: a target, day, column or condition that is none.
            StateError: samples have left their topic and are not archived.
        """
        from dovetail.embedded.chosen_samples import chosen_samples

        return chosen_samples(self, days=days, columns=columns, where=where, target=target, topic=topic)

    def send(self, topic: str, rows: Any, *, idempotency_key: str | None = None) -> int:
        """Send rows of a stream or a kind of labels, or ``requests``, all or none; how many, when the log has them.

        With an embedded broker no worker may have the log but an :meth:`embedded` flow of this process, which sends.

        ``idempotency_key``: with the key of a call of before, its rows are the same events, row by row, where the
        stream or kind declares ``unique_within``.

        Raises:
            ConfigError: nothing is sent to ``topic``, or it does not look at keys.
            WireError: some rows are not as declared: the first of them, and why.
            LogLocked: the broker is embedded, and another process has it.
            TransportError: the broker has not taken them all.
        """
        from dovetail.embedded.one_call import send

        return send(self, topic, rows, idempotency_key)

    def rank(self, requests: Any) -> pa.Table:
        """Rank the candidates of ``requests``: their snapshots as recorded, one row per candidate, when durable.

        Asks the workers, through the broker; with an embedded broker, the :meth:`embedded` flow of this process, or one
        that lasts for this call and works off what was sent before. The columns are those of
        :meth:`~dovetail.embedded.program_flow.EmbeddedFlow.rank`.

        Raises:
            WireError: some requests are refused: the first of them, and why. The others are recorded.
            ConfigError: the broker is on servers, and the project has no ``[api]`` section.
            LogLocked: the broker is embedded, and another process has it.
        """
        from dovetail.embedded.one_call import rank

        return rank(self, requests)

    def embedded(self) -> EmbeddedFlow:
        """The whole flow in this process, for a ``with`` block."""
        from dovetail.embedded.program_flow import EmbeddedFlow

        return EmbeddedFlow(self)


def load(path: str | Path, **overrides: Any) -> ProjectClient:
    """Load the project in folder ``path`` (or whose ``dovetail.toml`` it is). ``overrides`` as in ``load_config``.

    Raises:
        ConfigError: ``dovetail.toml`` is wrong, or names a feature set or model input that does not exist.
        DefinitionError: a file in ``sql/`` is wrong or outside the supported language.
    """
    loaded = load_project(path, **overrides)
    return ProjectClient(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
