"""Carries events of runs to a file or an address; a failure there is a warning in the log, and no run fails by it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dovetail.app.openlineage.run_events import JobRun, LineageDataset, told_run
from dovetail.app.quality.webhook import Webhook
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.load import Config
from dovetail.platform.config.quality.rules import is_web_address
from dovetail.platform.errors import ConfigError
from dovetail.platform.logs import Event
from dovetail.platform.masking import variable_name

__all__ = ["emitter_of", "lineage_run"]

_log = logging.getLogger(__name__)
_PAUSES_S = (1.0,)


def emitter_of(config: Config) -> Callable[[Mapping[str, Any]], None] | None:
    """The way of events to where ``[openlineage]`` says; None where it says nothing.

    Raises:
        ConfigError: the environment variable that it names holds no address.
    """
    declared = config.openlineage
    if declared.file is not None:
        path = config.path(declared.file)
        return lambda event: _append(path, event)
    url = declared.url.get_secret_value() if declared.url is not None else ""
    if declared.url_env:
        url = os.environ.get(declared.url_env, "").strip()
        if not is_web_address(url):
            raise ConfigError(
                f"openlineage.url_env: the environment variable {variable_name(declared.url_env)} holds no address "
                "that begins with http:// or https:// and has a host; set it, or remove the option"
            )
    if not url:
        return None
    webhook = Webhook(url, declared.timeout)
    return lambda event: _post(webhook, event)


@contextmanager
def lineage_run(
    config: Config | None, job: str, kind: str, inputs: Sequence[LineageDataset] = (), sql: str | None = None
) -> Iterator[JobRun]:
    """The block as a run that is told where the project's ``[openlineage]`` says; told to nobody where it says nothing.

    Raises:
        ConfigError: as :func:`emitter_of`.
    """
    emit = None if config is None else emitter_of(config)
    if config is None or emit is None:
        yield JobRun()
        return
    namespace, name = config.openlineage.namespace, f"{config.name}.{job}"
    with told_run(emit, SystemClock(), namespace=namespace, job=name, kind=kind, inputs=inputs, sql=sql) as run:
        yield run


def _append(path: Path, event: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
    except OSError as error:
        _log.warning(Event("lineage not told", to=str(path), error=str(error)))


def _post(webhook: Webhook, event: Mapping[str, Any]) -> None:
    delivery = webhook.post(event, pauses_s=_PAUSES_S)
    if not delivery.delivered:
        _log.warning(Event("lineage not told", to=delivery.to, error="; ".join(delivery.problems)))
