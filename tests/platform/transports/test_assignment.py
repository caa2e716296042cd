"""Who reads which partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.transports.kafka.assignment import Assignor


class Cluster:
    def __init__(self, topics: Mapping[str, int]) -> None:
        self.topics = topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.topics[topic])) if topic in self.topics else None


def assigned(
    assignor: Assignor, topics: Mapping[str, int], members: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, list[int]]]:
    asked = {name: assignor.metadata(read) for name, read in members.items()}
    cluster: Any = Cluster(topics)
    return {name: dict(answer.assignment) for name, answer in assignor.assign(cluster, asked).items()}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 7), min_size=1),
    st.integers(1, 5),
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from("def")),
)
def test_every_partition_has_one_reader_a_shared_one_all_and_a_whole_topic_a_single_one(
    topics: dict[str, int], members: int, shared: set[str], whole: set[str]
) -> None:
    names = [f"m{number}" for number in range(members)]
    found = assigned(Assignor(shared, whole), topics, {name: sorted(topics) for name in names})
    for topic, partitions in topics.items():
        by_member = [found[name].get(topic, []) for name in names]
        if topic in shared:
            assert by_member == [list(range(partitions))] * members
        else:
            assert sorted(chain.from_iterable(by_member)) == list(range(partitions))
        if topic in whole:
            assert sorted(map(len, by_member)) == [0] * (members - 1) + [partitions]


def test_partitions_are_spread_evenly_over_all_topics() -> None:
    found = assigned(Assignor(), {"a": 1, "b": 1, "c": 2}, {"m0": "abc", "m1": "abc"})
    assert found == {"m0": {"a": [0], "c": [0]}, "m1": {"b": [0], "c": [1]}}


def test_members_get_only_what_they_subscribe_to_and_unknown_topics_are_nobodys() -> None:
    found = assigned(Assignor(), {"a": 2, "b": 2}, {"m0": ["a"], "m1": ["b", "gone"]})
    assert found == {"m0": {"a": [0, 1]}, "m1": {"b": [0, 1]}}


def test_its_name_and_metadata_are_what_the_group_compares() -> None:
    assert Assignor.name == "dovetail"
    metadata = Assignor({"a"}).metadata(["a"])
    assert isinstance(metadata, ConsumerProtocolMemberMetadata)
    assert (metadata.version, metadata.subscription, metadata.user_data) == (0, ["a"], b"")
