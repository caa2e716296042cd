"""Who reads which partition, among the workers of a Kafka consumer group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

__all__ = ["Assignor"]


class Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka is not typed
    """Partitions go to the members in turn, with two exceptions.

    Every member reads all of a *shared* topic: what is published there is for each process. One member reads all of a
    *whole* topic: its partitions make one state. The leader of the group decides for all, so all members must be
    configured alike; they are, by their group's name.
    """

    name = "dovetail"
    version = 0

    def __init__(self, shared: Collection[str] = (), whole: Collection[str] = ()) -> None:
        self._shared = frozenset(shared)
        self._whole = frozenset(whole)

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Partitions by member; the same for the same members and topics."""
        readers: defaultdict[str, list[str]] = defaultdict(list)
        for member in sorted(members):
            for topic in members[member].subscription:
                readers[topic].append(member)
        given: dict[str, defaultdict[str, list[int]]] = {member: defaultdict(list) for member in members}
        # Turns are taken over all topics, so that many topics of one partition do not all fall to one member.
        turns: dict[tuple[str, ...], int] = defaultdict(int)
        for topic in sorted(readers):
            who = tuple(readers[topic])
            partitions = sorted(cluster.partitions_for_topic(topic) or ())
            if topic in self._shared:
                for member in who:
                    given[member][topic] += partitions
            elif topic in self._whole:
                given[who[turns[who] % len(who)]][topic] += partitions
                turns[who] += 1
            else:
                for partition in partitions:
                    given[who[turns[who] % len(who)]][topic].append(partition)
                    turns[who] += 1
        return {
            member: ConsumerProtocolMemberAssignment(self.version, sorted(topics.items()), b"")
            for member, topics in given.items()
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """This member's message to the group: the topics it reads."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), b"")

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing: the consumer is told by other ways."""
