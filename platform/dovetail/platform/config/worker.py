"""``[worker]`` in ``dovetail.toml``: the process around the stages."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DurationUs, render_duration
from dovetail.platform.config.section import Section
from dovetail.platform.logs import Level

__all__ = ["GatherConfig", "WorkerConfig"]

_SECOND_US = 1_000_000
#: Longer than this nothing may be gathered: a worker that waits should not be taken for one that stands still.
_LONGEST_GATHERED_US = 10 * _SECOND_US


class GatherConfig(Section):
    """How long messages of a partition may wait for others before an agent is given them together, by role.

    A role that is not here handles each message at once. No result depends on it, only how soon it is there, and what
    the worker spends on it.
    """

    #: Agents that re-key streams; an event is seen by requests this and ``features`` later.
    rekey: DurationUs = 10_000
    #: Feature agents; an event is seen by requests this much later.
    features: DurationUs = 20_000
    #: Label agents; with ``samples`` and ``trainer``, how much later a closed label window is trained on.
    labels: DurationUs = 200_000
    #: Sample agents, and those that order samples.
    samples: DurationUs = 200_000
    #: The trainer.
    trainer: DurationUs = 200_000
    #: The archive, whose rows wait for a file in any case.
    archive: DurationUs = 1_000_000

    @model_validator(mode="after")
    def _not_for_long(self) -> GatherConfig:
        for role, wait_us in self:
            if wait_us > _LONGEST_GATHERED_US:
                raise ValueError(
                    f"{role}: what waits for {render_duration(wait_us)} looks as if it stood still; make it at most "
                    f"{render_duration(_LONGEST_GATHERED_US)}"
                )
        return self

    def wait_us(self, role: str) -> int:
        """The wait of a role in microseconds; 0 for those that handle each message at once."""
        found: int = getattr(self, role, 0)
        return found


class WorkerConfig(Section):
    """Health server, time-outs, membership in the Kafka consumer group, and the log."""

    health_host: str = Field(default="127.0.0.1", min_length=1)
    #: Port of ``/healthz``, ``/readyz`` and ``/metrics``; 0 takes a free one and says which; None: no server.
    health_port: int | None = Field(default=None, ge=0, le=65_535)
    #: From a signal to the end of the process, at most.
    stop_timeout: DurationUs = 30 * _SECOND_US
    #: A partition that does not move for this long while data waits ends the worker; 0 for no watchdog.
    watchdog_timeout: DurationUs = 300 * _SECOND_US
    #: A worker the Kafka group has not heard of for this long loses its partitions.
    session_timeout: DurationUs = 20 * _SECOND_US
    #: How often a worker is heard of.
    heartbeat: DurationUs = 3 * _SECOND_US
    #: How long messages wait for others, to be handled together.
    gather: GatherConfig = GatherConfig()
    #: The least grave lines of the log.
    log_level: Level = "info"
    #: Log in JSON, one object a line.
    log_json: bool = False
    #: Messages that bring a trace (``traceparent``) are told as spans, by OpenTelemetry.
    tracing: bool = False

    @model_validator(mode="after")
    def _times_fit(self) -> WorkerConfig:
        if self.stop_timeout < _SECOND_US:
            raise ValueError("stop_timeout: less than 1s would cut every commit off; make it at least that")
        if self.heartbeat <= 0 or self.heartbeat * 3 > self.session_timeout:
            raise ValueError(
                f"heartbeat: {render_duration(self.heartbeat)} is nothing, or more than a third of session_timeout, "
                f"{render_duration(self.session_timeout)}; make it a third or less"
            )
        if 0 < self.watchdog_timeout <= (longest := max(wait_us for _, wait_us in self.gather)):
            raise ValueError(
                f"watchdog_timeout: {render_duration(self.watchdog_timeout)} is no longer than messages wait for "
                f"others, {render_duration(longest)}, and a worker that waits would be taken for one that stands "
                "still; make it longer"
            )
        return self

    def faust_settings(self) -> dict[str, Any]:
        """These, as Faust calls them."""
        session = self.session_timeout / _SECOND_US
        return {
            "broker_session_timeout": session,
            "broker_heartbeat_interval": self.heartbeat / _SECOND_US,
            # Faust wants it no shorter than the session; its default is 90 seconds.
            "broker_request_timeout": max(90.0, session),
        }
