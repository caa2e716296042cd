"""A connection of a program to a broker on servers, beside the workers that others run."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from dovetail.api.gateway import Gateway
from dovetail.api.process import api_config
from dovetail.api.replies import ReplyStage
from dovetail.app.broker import broker_app
from dovetail.app.storage import open_stores
from dovetail.embedded.program_gateway import ProgramGateway
from dovetail.features import Project
from dovetail.platform.clock import SystemClock
from dovetail.platform.process.loop_thread import LoopThread
from dovetail.platform.runtime.runner import Runtime

__all__ = ["BrokerConnection"]

_GRACE_S = 5.0


class BrokerConnection:
    """Asks the workers of a project, and sends to them, for as long as a ``with`` block lasts. Runs no agent itself.

    Raises:
        ConfigError: the project has no ``[api]``, so its workers have no topic to answer in.
        TransportError, StoreError: a server cannot be reached.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._replies = ReplyStage(api_config(project.config).reply_topic)

    def __enter__(self) -> ProgramGateway:
        with ExitStack() as opened:
            loop = LoopThread("dovetail-client")
            opened.callback(loop.close)
            stores = open_stores(self._project.config)
            opened.callback(stores.close)
            self._runtime: Runtime = loop.run(self._made())
            gateway = Gateway(self._project, stores, self._runtime, self._replies, SystemClock())
            opened.callback(lambda: loop.run(self._runtime.stop()))
            loop.run(self._runtime.start())
            self._opened = opened.pop_all()
        return ProgramGateway(loop, gateway)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
        if error is None and self._runtime.failure is not None:
            raise self._runtime.failure

    async def _made(self) -> Any:
        """A runtime belongs to the event loop in which it is made."""
        config = self._project.config
        app = broker_app(config, f"dovetail-{config.name}.client", **config.worker.faust_settings())
        app.shared |= set(self._replies.topics)
        return Runtime(app, [self._replies], grace_s=_GRACE_S)
