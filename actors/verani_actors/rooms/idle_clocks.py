"""Keep awake rooms in the order of their last activity, so that the idle ones are found without a search.

Whether an idle room sleeps is decided in `sleeping`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

__all__ = ["IdleRooms"]


class IdleRooms:
    """Rooms by idle time-out, each in the order of its last activity; every operation is O(1) for each room named."""

    def __init__(self) -> None:
        self._queues: dict[float, OrderedDict[str, float]] = {}
        self._timeouts: dict[str, float] = {}

    def mark(self, room: str, timeout: float, now: float) -> None:
        """Start the idle clock of a room anew."""
        self._timeouts[room] = timeout
        queue = self._queues.get(timeout)
        if queue is None:
            queue = self._queues[timeout] = OrderedDict()
        queue[room] = now
        queue.move_to_end(room)

    def forget(self, room: str) -> None:
        """Stop the idle clock of a room."""
        timeout = self._timeouts.pop(room, None)
        if timeout is not None:
            del self._queues[timeout][room]

    def due(self, now: float) -> list[str]:
        """Name the rooms that have been idle for their time-out."""
        found: list[str] = []
        for timeout, queue in self._queues.items():
            for room, since in queue.items():
                if now - since < timeout:
                    break
                found.append(room)
        return found

    def oldest(self) -> Iterator[str]:
        """Name the rooms, the one idle for the longest time first; not to be used across a change.

        Each costs O(log t) for t different time-outs: who asks for few looks at few.
        """
        queues = (((since, room) for room, since in queue.items()) for queue in self._queues.values())
        return (room for _, room in heapq.merge(*queues))
