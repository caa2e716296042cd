"""The example of docs/operations.md sends what a project like the repository's takes."""

from __future__ import annotations

import re
import uuid

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dovetail.features import load
from dovetail.platform.rows import wire
from tests.places import ROOT
from tests.platform.polls import poll_of


@pytest.mark.services
def test_the_example_sends_rows_that_fit_their_schemas(kafka_url: str) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
    address, run, project = kafka_url.removeprefix("kafka://"), uuid.uuid4().hex[:8], load(ROOT)
    schemas = {**project.label_schemas, "behaviour": project.streams["behaviour"].schema, "requests": project.request}
    topics = {name: f"{name}-{run}" for name in ("behaviour", "requests", "exposure", "click")}
    admin = AdminClient({"bootstrap.servers": address})
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics.values()]).values():
        made.result()
    for name, topic in topics.items():
        block = block.replace(f'send("{name}"', f'send("{topic}"')
    exec(compile(block.replace("localhost:19392", address), "operations.md", "exec"), {})
    for name, topic in topics.items():
        consumer = Consumer({"bootstrap.servers": address, "group.id": run})
        consumer.assign([TopicPartition(topic, 0, 0)])
        (message,) = consumer.consume(1, timeout=30)
        consumer.close()
        decoded = wire.decode(poll_of([message.value()]), schemas[name])
        assert (decoded.table.num_rows, decoded.dead) == (1, ())
