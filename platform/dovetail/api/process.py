"""The API beside the stages of a process: made before they start, served while they run."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from dovetail.api.application import Surroundings, application
from dovetail.api.gateway import Gateway
from dovetail.api.replies import ReplyStage
from dovetail.api.server import listening, served
from dovetail.api.tokens import tokens_of
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.load import Config
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.logs import Event
from dovetail.platform.runtime.runner import Runtime

__all__ = ["Api", "api_config"]

_log = logging.getLogger(__name__)
#: The share of ``stop_timeout`` that calls have to be answered in when the process stops.
_GRACE_SHARE = 8


def api_config(config: Config) -> ApiConfig:
    """The ``[api]`` section.

    Raises:
        ConfigError: there is none.
    """
    if config.api is None:
        raise ConfigError(
            "dovetail.toml has no [api] section, so workers have no topic to answer HTTP requests in: add the line "
            "[api], restart the workers, and start this again"
        )
    return config.api


class Api:
    """The API of one process. It listens from its construction on, and answers within :meth:`beside`.

    Raises:
        ConfigError: the address cannot be listened on, or the tokens cannot be read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._api = api_config(config)
        self._tokens = tokens_of(self._api, config.path)
        #: The stage that reads answers; it belongs to the runtime of the process.
        self.replies = ReplyStage(self._api.reply_topic)
        self._listener: socket.socket = listening(self._api)

    def beside(
        self,
        project: Project,
        stores: Stores,
        runtime: Runtime,
        around: Surroundings,
        watch: Callable[[], Awaitable[None]],
    ) -> Callable[[], Awaitable[None]]:
        """``watch``, with the API served for as long as it runs."""
        gateway = Gateway(project, stores, runtime, self.replies, SystemClock())
        grace_s = self._config.worker.stop_timeout / 1_000_000 / _GRACE_SHARE

        async def watched() -> None:
            closing = asyncio.Event()
            app = application(gateway, self._api, self._tokens, around, closing)
            serving = served(app, self._listener, self._api, self._config.path, closing=closing.set, grace_s=grace_s)
            async with serving as url:
                _log.info(Event("api", url=url, docs="/v1/docs", tokens=bool(self._tokens)))
                await watch()

        return watched

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
