"""Events known by an id: one that was there before, within a window, is that one again and no event.

``repetitions`` says which rows repeat others; ``event_memory`` keeps what has been seen, for all readers of a topic.
"""

from dovetail.platform.rows.identity.event_memory import (
    EVENT_ID_HEADER,
    EventIds,
    EventLog,
    EventMemory,
    NewEvents,
    RememberedEvent,
)

__all__ = ["EVENT_ID_HEADER", "EventIds", "EventLog", "EventMemory", "NewEvents", "RememberedEvent"]
