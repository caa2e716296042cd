"""A small world for the fault harness: a simulated log, its project, and everything a producer would send of it.

The same seed gives the same messages. They are sent in the order they arrive in the simulated shop, in *portions*, with
duplicates, late rows and, where asked for, poison messages and producers whose clocks disagree.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dovetail.demo.logs.recorded import MINUTE_US, RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.replay import Replay
from dovetail.features import Project, load
from dovetail.platform.stage import Outgoing

__all__ = ["POISON", "Urls", "World", "make_world"]

_HERE = Path(__file__).parent
_SHIPPED = _HERE.parents[1] / "sql"
_SHARED_SQL = ("behaviour", "item", "item_profile", "labels", "request")

#: What no stream takes: not JSON, JSON of another shape, a missing column.
POISON = (b"\xff\xfe no json", b'{"user_id": 12}', b"[1, 2, 3]", b'{"request_id": null, "item_id": "x"}')

_TOML = """\
name = "{name}"
sql = "sql"

[storage]
state = "{state}"
broker = "{broker}"
online_store = "{online}"
label_store = "{labels}"
registry = "{registry}"

[worker]
health_port = 0
session_timeout = "{session}"
heartbeat = "500ms"
stop_timeout = "60s"
watchdog_timeout = "60s"

# The log is of another year, and brokers remove by the age that messages say they have.
[broker.retention]
inputs = "forever"
snapshots = "forever"
samples = "forever"
dead_letters = "forever"

[redis]
timeout = "5s"

[archive]
max_delay = "2s"

[quality]
live = true
window = "1h"
# More than the log has: no window is forgotten, so that every archived row can be counted.
reference = 48

[streams.behaviour]
topic = "{name}-behaviour"
key = "user_id"
partitions = {partitions}
event_time = "event_time"
# A request that waits for as long as the whole log takes is still answered exactly.
allowed_lateness = "48h"

# An item's events, which are spread over the partitions of users, brought together, with what their users had done.
[rekeyed.behaviour_by_item]
topic = "{name}-behaviour-by-item"
stream = "behaviour"
key = "item_id"
partitions = 2
enrich = ["visitor"]

[tables.item]
path = "item.parquet"

[batch_views.item_profile]
every = "1d"

[request]
topic = "{name}-requests"
partitions = 2
feature_set = "ranking"
snapshots_topic = "{name}-snapshots"

[labels]
policy = "delayed"
window = "15m"
allowed_lateness = "5m"
idle_timeout = "12h"
exposure = "exposure"
positive = "click"
samples_topic = "{name}-samples"

[labels.streams.exposure]
topic = "{name}-exposure"
partitions = 2

[labels.streams.click]
topic = "{name}-click"
partitions = 2

[model]
bits = 14
publish_every = 200
checkpoint_every = 300
checkpoint_delay = "2s"
inputs = [
    {{ column = "hour_of_day" }},
    {{ column = "segment" }},
    {{ column = "position" }},
    {{ column = "user_clicks_1h" }},
    {{ column = "user_events_1d", kind = "numeric" }},
    {{ column = "user_last_action" }},
    {{ column = "item_ctr_1d", kind = "numeric" }},
    {{ column = "category" }},
    {{ column = "item_score", kind = "numeric" }},
]
"""

#: For a world whose clients send over HTTP: what they repeat is one event, one label, one request.
_API = """
[api]
port = 0
reply_topic = "{name}-replies"
"""
#: For a world whose model is on shards. Small batches, so that each stage has many works to die at.
_TRAINER = """
[trainer]
shards = {shards}
staleness = {staleness}
batch_rows = 32
"""
#: For one by samples.
_BY_SAMPLES = """by = "samples"
workers = {workers}
"""
_NAMED = ("[streams.behaviour]", "[request]", "[labels.streams.exposure]", "[labels.streams.click]")


@dataclass(frozen=True, slots=True)
class Urls:
    """The servers of a world."""

    broker: str
    online: str
    labels: str
    registry: str


@dataclass(frozen=True, slots=True)
class World:
    """One seeded run: its project's folder, and what is sent in portions.

    ``portions`` are lists of messages in arrival order; the last one announces the end of time, so that every sample is
    released. ``poison`` counts the messages among them that must end as dead letters. ``over_http``: clients send them
    to the project's API, and give their calls keys, so what they send twice is there once.
    """

    name: str
    folder: Path
    project: Project
    portions: Sequence[Sequence[Outgoing]]
    poison: int
    counts: Mapping[str, int] = field(default_factory=dict)
    over_http: bool = False

    @property
    def inputs(self) -> list[str]:
        """The topics that are sent to."""
        return sorted(self.sent)

    @property
    def sent(self) -> dict[str, int]:
        """Messages by topic."""
        totals: dict[str, int] = {}
        for message in (message for portion in self.portions for message in portion):
            totals[message.topic] = totals.get(message.topic, 0) + 1
        return totals


def make_world(
    folder: Path,
    name: str,
    urls: Urls,
    seed: int,
    *,
    portions: int = 12,
    poison: int = 0,
    skew_us: int = 0,
    requests: int = 240,
    session: str = "4s",
    spread: bool = False,
    partitions: int = 3,
    over_http: bool = False,
    shards: int = 0,
    staleness: str = "0",
    workers: int = 0,
) -> World:
    """Write the project into ``folder`` and make what is sent.

    ``poison`` messages are strewn over the input topics; ``skew_us`` is how far the clock of every second producer is
    behind: the timestamps of its messages, not their event times. ``spread`` sends requests to all partitions in turn;
    without, they are all in one, the samples too, and so the model is a function of the world. ``partitions`` are those
    of events. ``over_http``: the project has an API, and looks at the ids of what is sent. With
    ``shards``, the model is on so many, with ``staleness`` as in ``dovetail.toml``; by samples with ``workers``.
    """
    log = simulate(
        SimulatorConfig(
            seed=seed,
            requests=requests,
            days=1,
            users=60,
            items=80,
            candidates=20,
            late=0.05,
            duplicates=0.05,
            too_late=0.0,
            click_rate=0.15,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sql").mkdir(exist_ok=True)
    for definition in (_HERE / "sql").glob("*.sql"):
        shutil.copy(definition, folder / "sql")
    for shared in _SHARED_SQL:
        shutil.copy(_SHIPPED / f"{shared}.sql", folder / "sql")
    _without_conversion(folder / "sql" / "labels.sql")
    pq.write_table(log.items, folder / "item.parquet")
    trainer = (_TRAINER if shards else "") + (_BY_SAMPLES if workers else "")
    text = (_TOML + (_API if over_http else "") + trainer).format(
        shards=shards,
        workers=workers,
        staleness=staleness,
        name=name,
        state=".dovetail",
        broker=urls.broker,
        online=urls.online,
        labels=urls.labels,
        registry=urls.registry,
        session=session,
        partitions=partitions,
    )
    if shards:  # topics of its own
        text = text.replace("[model]\n", f'[model]\nname = "{name}"\n')
    for section in _NAMED if over_http else ():
        text = text.replace(f"{section}\n", f'{section}\nunique_within = "30d"\n')
    (folder / "dovetail.toml").write_text(text)
    project = load(folder)
    rng = np.random.default_rng([seed, 1])
    messages = [_skewed(m, skew_us, rng) for m in _messages(log, project)]
    if spread:
        messages = _over_partitions(messages, project)
    messages = _strewn(messages, poison, rng, [m.topic for m in messages if m.value])
    ends = np.linspace(0, len(messages), portions + 1).astype(int)
    parts = [messages[low:high] for low, high in pairwise(ends)]
    return World(name, folder, project, parts, poison, log.counts, over_http)


def _without_conversion(path: Path) -> None:
    """The harness declares two label streams; a third schema would be unused."""
    text = path.read_text()
    path.write_text(text[: text.index("CREATE TABLE conversion")])


def _messages(log: RecordedLog, project: Project) -> Iterator[Outgoing]:
    """All of the log, slice by slice, the requests of a slice among its events."""
    small = replace(log, slice_us=30 * MINUTE_US)
    for _, phases in Replay(small, project.config).phases():
        for batches in phases:
            for batch in batches:
                yield from batch.messages


def _over_partitions(messages: Sequence[Outgoing], project: Project) -> list[Outgoing]:
    request = project.config.request
    turns = count()
    return [
        replace(message, partition=next(turns) % request.partitions) if message.topic == request.topic else message
        for message in messages
    ]


def _skewed(message: Outgoing, skew_us: int, rng: np.random.Generator) -> Outgoing:
    if not skew_us or message.timestamp_ms is None or not message.value or rng.random() < 0.5:
        return message
    return replace(message, timestamp_ms=message.timestamp_ms - skew_us // 1_000)


def _strewn(messages: list[Outgoing], poison: int, rng: np.random.Generator, topics: Sequence[str]) -> list[Outgoing]:
    for number in range(poison):
        topic = topics[int(rng.integers(len(topics)))]
        at = int(rng.integers(len(messages)))
        bad = Outgoing(topic, POISON[number % len(POISON)], partition=0, timestamp_ms=messages[at].timestamp_ms)
        messages.insert(at, bad)
    return messages
