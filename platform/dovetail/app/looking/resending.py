"""Dead letters sent again, after what made them dead has been repaired: each once, however often it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dovetail.app.looking.letters import Letter
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.resent import Resent
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.transports.publishing import Publisher
from dovetail.platform.transports.viewing import TopicView, read_all

__all__ = ["RESENT_HEADER", "Resending", "resend"]

#: Header of a message that was sent again: the offset of its letter in the dead-letter topic.
RESENT_HEADER = "dovetail-resent"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Resending:
    """How many letters were sent again now, had been before, and could not be: their value is nowhere any more."""

    sent: int = 0
    before: int = 0
    lost: Sequence[Letter] = ()


async def resend(letters: Sequence[Letter], registry: Registry, view: TopicView, publisher: Publisher) -> Resending:
    """Send the messages of ``letters`` again, to the partitions that they came from.

    Each keeps its key, its headers and its bytes; behind the headers stands :data:`RESENT_HEADER`. Its timestamp is
    that of now. A letter that went without its value is taken from where its message was.
    A letter is sent once: also when this is killed at any moment and asked for again, as long as the topics keep what
    was sent.

    Raises:
        StoreError: another process does the same now.
    """
    with registry.alone("resend"):
        return await _resend(letters, registry, view, publisher)


async def _resend(letters: Sequence[Letter], registry: Registry, view: TopicView, publisher: Publisher) -> Resending:
    known = await _settled(registry, view)
    todo = [letter for letter in letters if letter.offset not in known]
    sent, lost = 0, []
    for start in range(0, len(todo), _AT_ONCE):
        messages, missing = await _messages(todo[start : start + _AT_ONCE], view)
        lost += missing
        begun = await _begin(messages, view)
        registry.put_resent(begun)
        await publisher.publish(list(messages.values()))
        registry.put_resent({letter: place._replace(sent=True) for letter, place in begun.items()})
        sent += len(messages)
    return Resending(sent, len(letters) - len(todo), tuple(lost))


async def _settled(registry: Registry, view: TopicView) -> Mapping[int, Resent]:
    """The letters that were sent again; of those that may have been, the topics tell."""
    known = dict(registry.resent())
    for letter, place in known.copy().items():
        if place.sent:
            continue
        there = False
        async for poll in read_all(view, place.topic, {place.partition: place.since}):
            said = (RESENT_HEADER, str(letter).encode())
            there = there or (poll.partition == place.partition and any(said in tuple(h) for h in poll.headers))
        if there:
            known[letter] = place._replace(sent=True)
            registry.put_resent({letter: known[letter]})
        else:
            del known[letter]
    return known


async def _messages(letters: Sequence[Letter], view: TopicView) -> tuple[dict[int, Outgoing], list[Letter]]:
    found, missing = {}, []
    for letter in letters:
        head = letter.head
        header = (RESENT_HEADER, str(letter.offset).encode())
        message = Outgoing(head.topic, letter.value, letter.key, head.partition, headers=(*letter.headers, header))
        if not letter.complete:
            poll = await view.read(head.topic, head.partition, head.offset)
            if poll is None or poll.first != head.offset:
                missing.append(letter)
                continue
            headers = (*poll.headers[0], header)
            message = replace(message, key=poll.keys[0], value=poll.values[0] or b"", headers=headers)
        found[letter.offset] = message
    return found, missing


async def _begin(messages: Mapping[int, Outgoing], view: TopicView) -> dict[int, Resent]:
    ends = {topic: await view.bounds(topic) for topic in {message.topic for message in messages.values()}}
    begun = {}
    for letter, message in messages.items():
        partition = message.partition or 0
        begun[letter] = Resent(message.topic, partition, ends[message.topic][partition][1], sent=False)
    return begun
