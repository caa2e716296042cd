"""A worker with all roles in a thread of a program, for notebooks and tests."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from dovetail.api.gateway import Gateway
from dovetail.api.replies import ReplyStage
from dovetail.app.flow import Flow
from dovetail.app.worker import assemble
from dovetail.embedded.program_gateway import ProgramGateway
from dovetail.features import Project, load
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.errors import ConfigError, LogLocked
from dovetail.platform.process.loop_thread import LoopThread
from dovetail.samples import Reader

__all__ = ["EmbeddedFlow", "flow_of"]

#: The flows that run in this process, by their state; None while one starts.
_running: dict[str, EmbeddedFlow | None] = {}
_guard = threading.Lock()


class EmbeddedFlow:
    """A project's worker with all roles, in this process, for as long as a ``with`` block lasts.

    ::

        with EmbeddedFlow(".") as flow:
            flow.send("behaviour", events)
            ranked = flow.rank(requests)
            flow.send("click", clicks)
            flow.until_idle()
            samples = flow.samples()

    Rows are a ``pyarrow.Table``, whatever speaks the Arrow PyCapsule interface (pandas, Polars, DuckDB), or a list of
    dictionaries; answers are Arrow tables, which these take. State is the project's, embedded or on servers: what was
    sent is there at the next start, and is not sent again by itself. May be used from any thread.

    Raises:
        ConfigError, DefinitionError: as a worker's start does.
        LogLocked: the broker is embedded, and another process has it.
    """

    def __init__(self, project: Project | str | Path = ".") -> None:
        given = load(project) if isinstance(project, str | Path) else project
        #: The scene of ``rank``, ``features`` and ``samples`` where none is said.
        self._scene, loaded = given.config.scene, given.whole
        if loaded.config.api is None:
            loaded = replace(loaded, config=loaded.config.model_copy(update={"api": ApiConfig()}))
        #: The project.
        self.project = loaded
        self._place: str | None = None

    def __enter__(self) -> EmbeddedFlow:
        """Start.

        Raises:
            LogLocked: another flow of this process runs this project, maybe that of a cell that was run before.
        """
        place = _place_of(self.project)
        with _guard:
            if place in _running:
                raise LogLocked(
                    f"a flow of this process runs the project with the state {place} already: leave its `with` block "
                    "first; one worker has an embedded log at a time"
                )
            _running[place] = None
        try:
            self._start()
        except BaseException:
            del _running[place]
            raise
        self._place = place
        _running[place] = self
        return self

    def _start(self) -> None:
        api = self.project.config.api
        assert api is not None  # noqa: S101 - see above
        replies = ReplyStage(api.reply_topic)
        self._loop = LoopThread("dovetail")
        try:
            self._worker = self._loop.run(_assembled(self.project, replies))
            try:
                gateway = Gateway(self.project, self._worker.stores, self._worker.runtime, replies, SystemClock())
                self._asking = ProgramGateway(self._loop, gateway)
                self._loop.run(self._worker.runtime.start())
            except BaseException:
                self._worker.stores.close()
                raise
        except BaseException:
            self._loop.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._check_running()
        try:
            self._loop.run(self._worker.runtime.stop())
        finally:
            self._worker.stores.close()
            self._loop.close()
            del _running[str(self._place)]
            self._place = None
        if error is None and self._worker.runtime.failure is not None:
            raise self._worker.runtime.failure

    def send(self, topic: str, rows: Any, *, idempotency_key: str | None = None) -> int:
        """Send rows of a stream or of a kind of labels, all or none; their number, when the log has them durably.

        ``idempotency_key``: with the key of a call of before, its rows are the same events, row by row, where the
        stream or kind declares ``unique_within``.

        Raises:
            ConfigError: nothing is sent to ``topic``, or it does not look at keys.
            WireError: some rows are not as declared: the first of them, and why.
        """
        self._check_running()
        return self._asking.send(topic, rows, idempotency_key=idempotency_key)

    def rank(self, requests: Any, scene: str | None = None) -> pa.Table:
        """Rank the candidates of ``requests`` of a scene: their snapshots as recorded, a row each, when durable.

        The columns are the request's keys, the features as served, ``score`` and ``model_version``; what else a
        snapshot keeps begins with an underscore.

        Raises:
            WireError: some requests are refused: the first of them, and why. The others are recorded.
        """
        self._check_running()
        return self._asking.rank(requests, self._scene if scene is None else scene)

    def features(self, requests: Any, scene: str | None = None) -> pa.Table:
        """The features of the candidates of ``requests`` of a scene now, one row per candidate. Records nothing.

        Raises:
            WireError: some requests are not as declared, are too old, or have no value for an expression.
        """
        self._check_running()
        return self._asking.features(requests, self._scene if scene is None else scene)

    def until_idle(self, *, release: bool = True) -> None:
        """Wait until all that was sent is handled; with ``release``, let go of what waits for later labels.

        Labels that come after a release and are older than its watermark are late.
        """
        self._check_running()
        self._loop.run(Flow(self._worker).until_idle(release=release))

    def samples(self, *, scene: str | None = None, **options: Any) -> pa.Table:
        """The samples of a scene made so far, each once. ``options`` are those of a
        :class:`~dovetail.samples.reader.Reader`.
        """
        with Reader(self.project.scene(self._scene if scene is None else scene), **options) as reader:
            batches = list(reader)
        return pa.concat_tables(batches, promote_options="permissive") if batches else pa.table({})

    def _check_running(self) -> None:
        if self._place is None:
            raise ConfigError("the flow does not run: use it inside `with EmbeddedFlow(...) as flow:`")


def flow_of(project: Project) -> EmbeddedFlow | None:
    """The flow of ``project``, by its state, that runs in this process; None without one."""
    return _running.get(_place_of(project))


def _place_of(project: Project) -> str:
    return str(project.config.path(project.config.storage.state).resolve())


async def _assembled(project: Project, replies: ReplyStage) -> Any:
    """A worker belongs to the event loop in which it is put together."""
    return assemble(project, beside=[replies], load_beside=True)
