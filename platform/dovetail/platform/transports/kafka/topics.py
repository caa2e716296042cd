"""Topics of a Kafka cluster: made as declared where they are missing, refused where what is there does not fit.

All topics are logs that readers resume in by offset, so none is compacted: compaction removes rows of a key before a
slow reader has come by, and the parts of a published model share a key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from dovetail.platform.config.broker import FOREVER_MS, Retention
from dovetail.platform.errors import TransportError

__all__ = ["TopicPlan", "declare"]

_BROKER_DEFAULT = Retention()
_SETTLE_SECONDS = 30.0
_ASK_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """Topics as declared: partitions and retention by name, and the settings that all share."""

    partitions: Mapping[str, int]
    retention: Mapping[str, Retention]
    max_message_bytes: int
    replication: int
    may_create: bool


async def declare(admin: AIOKafkaAdminClient, servers: Sequence[str], plan: TopicPlan) -> None:
    """Create the topics that are missing, check the ones that are there.

    Raises TransportError when a topic is missing and may not be created; or has other partitions than declared, is
    compacted, keeps messages for less than is needed or takes smaller ones than are sent. KafkaError otherwise.
    """
    # A list of all topics, not a question about ours: brokers create a topic they are asked about.
    there = set(await admin.list_topics())
    missing = [topic for topic in plan.partitions if topic not in there]
    if missing and not plan.may_create:
        raise TransportError(f"{servers} has no topic {', '.join(sorted(missing))}, and creating is off: create it")
    if missing:
        answer = await admin.create_topics([_new(topic, plan) for topic in missing])
        for _, code, *_rest in answer.topic_errors:
            if code and code != TopicAlreadyExistsError.errno:  # another worker that starts now was faster
                raise for_code(code)
    # Also those just made: another worker may have declared them otherwise, and a default is the broker's own.
    for topic, (partitions, settings) in (await _settled(admin, list(plan.partitions))).items():
        _check(topic, partitions, settings, servers, plan)


async def _settled(admin: AIOKafkaAdminClient, topics: list[str]) -> dict[str, tuple[int, dict[str, str]]]:
    """Partitions and settings in force, by topic; asked again while the broker does not know what was just made.

    Raises KafkaError when it does not know one for half a minute.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            return await _described(admin, topics)
        except (UnknownTopicOrPartitionError, LeaderNotAvailableError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _described(admin: AIOKafkaAdminClient, topics: list[str]) -> dict[str, tuple[int, dict[str, str]]]:
    found: dict[str, int] = {}
    for topic in await admin.describe_topics(topics) if topics else ():
        if topic["error_code"]:
            raise for_code(topic["error_code"])
        found[topic["topic"]] = len(topic["partitions"])
    settings = await _settings(admin, topics)
    return {topic: (partitions, settings.get(topic, {})) for topic, partitions in found.items()}


def _new(topic: str, plan: TopicPlan) -> NewTopic:
    settings = {"cleanup.policy": "delete", "max.message.bytes": str(plan.max_message_bytes)}
    keep = plan.retention.get(topic, _BROKER_DEFAULT).keep_ms
    if keep is not None:
        settings["retention.ms"] = str(keep)
    return NewTopic(topic, plan.partitions[topic], plan.replication, topic_configs=settings)


async def _settings(admin: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    """Settings in force, by topic; none from a broker that does not tell."""
    if not topics:
        return {}
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
    except IncompatibleBrokerVersion:
        return {}
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, _, _, topic, entries in answer.resources:
            if code:
                raise for_code(code)
            found[topic] = {entry[0]: entry[1] for entry in entries}
    return found


def _check(topic: str, partitions: int, settings: Mapping[str, str], servers: Sequence[str], plan: TopicPlan) -> None:
    if partitions != plan.partitions[topic]:
        raise TransportError(
            f"topic {topic!r} at {servers} has {partitions} partitions, {plan.partitions[topic]} declared; "
            "declare what is there, or use a new topic: adding partitions would move keys"
        )
    if not settings:
        return
    if "compact" in settings["cleanup.policy"]:
        raise TransportError(
            f"topic {topic!r} at {servers} is compacted: rows would be removed before they are read; "
            "set its cleanup.policy to delete"
        )
    keeps, needed = int(settings["retention.ms"]), plan.retention.get(topic, _BROKER_DEFAULT).needed_ms
    if keeps != FOREVER_MS and keeps < needed:
        raise TransportError(
            f"topic {topic!r} at {servers} keeps messages for {keeps} ms, rows wait in it for {needed} ms: "
            "lengthen its retention.ms"
        )
    takes = int(settings["max.message.bytes"])
    if takes < plan.max_message_bytes:
        raise TransportError(
            f"topic {topic!r} at {servers} takes messages of {takes} bytes, broker.max_message_bytes is "
            f"{plan.max_message_bytes}: lower that, or raise the topic's max.message.bytes"
        )
