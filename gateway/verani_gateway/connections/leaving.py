"""Close all connections of a process that ends, in batches, so that clients do not all come back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from .connection import Connection

__all__ = ["close_all"]

# So many connections are closed at once, and so long a pause follows, in seconds.
BATCH = 200
PAUSE = 0.05

# What hooks get to answer, at most for each batch, and how often it is looked whether they have, in seconds.
_ANSWER_GRACE = 1.0
_ANSWER_LOOK = 0.005


async def close_all(connections: Mapping[str, Connection], *, answers: bool) -> None:
    """Close them with 1012; with `answers`, each at a moment when it waits for none, if there soon is such a moment.

    Without, nothing that clients send is read any more, so their close frames are not waited for.
    """
    while batch := [each for each in connections.values() if not each.closing.is_sent][:BATCH]:
        if answers:
            await _answer(batch)
        for connection in batch:
            connection.closing.leave()
            if not answers:
                connection.closing.hang_up()
        await asyncio.sleep(PAUSE)


async def _answer(connections: Sequence[Connection]) -> None:
    now = asyncio.get_running_loop().time
    until = now() + _ANSWER_GRACE
    while now() < until and (waiting := [each for each in connections if not each.closing.is_sent]):
        for connection in waiting:
            if not connection.in_flight.count:
                connection.closing.leave()
        await asyncio.sleep(_ANSWER_LOOK)
