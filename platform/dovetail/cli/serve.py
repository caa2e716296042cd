"""``dovetail serve``: the HTTP API in a process of its own, beside workers that others run."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from dovetail.app.broker import broker_app
from dovetail.app.storage import open_stores
from dovetail.features import load
from dovetail.platform.errors import ConfigError
from dovetail.platform.extras import needs_extra
from dovetail.platform.logs import set_up_logs
from dovetail.platform.process.lifecycle import leave, run_process
from dovetail.platform.process.monitor import Monitor, Pulse
from dovetail.platform.runtime.runner import Runtime

__all__ = ["run"]

_US = 1_000_000


def run(project: Path, options: dict[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM. ``options`` replace values of ``[api]``.

    Raises:
        ConfigError: the project has no ``[api]``, or its broker is embedded.
    """
    with needs_extra("dovetail serve", "api"):
        from dovetail.api.application import Surroundings
        from dovetail.api.process import Api, api_config
    loaded = load(project, api=options) if options else load(project)
    config = loaded.config
    api_config(config)
    if config.storage.url("broker").startswith("embedded://"):
        raise ConfigError(
            "the embedded broker belongs to one process: `dovetail worker` serves the API of this project itself"
        )
    settings = config.worker
    set_up_logs(settings.log_level, as_json=settings.log_json)
    app = broker_app(config, f"dovetail-{config.name}.api", **settings.faust_settings())
    with ExitStack() as stack:
        api = Api(config)
        stack.callback(api.close)
        stores = open_stores(config)
        stack.callback(stores.close)
        app.shared |= set(api.replies.topics)
        runtime = Runtime(app, [api.replies], grace_s=settings.stop_timeout / _US / 2)
        pulse = Pulse()
        monitor = Monitor(runtime, pulse, loop_timeout_s=0)

        async def for_ever() -> None:
            await asyncio.Event().wait()

        async def started() -> None:
            """Nothing: the API says itself that it serves."""

        run_process(
            runtime,
            watch=api.beside(loaded, stores, runtime, Surroundings(monitor.alive, monitor.ready, REGISTRY), for_ever),
            pulse=pulse,
            stop_timeout_s=settings.stop_timeout / _US,
            loop_timeout_s=0,
            on_started=started,
        )
    leave()
