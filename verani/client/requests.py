"""Keep the requests of a client that wait for their responses.

A request ends in exactly one way: its response, `DeadlineExceeded`, `NotSent` (surely did not run), `TooLarge` (was
sent and not taken), the refusal of `on_connect` (nobody looked at it), or `Interrupted` (was sent, may have run).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import RoomBusy, VeraniError

__all__ = ["NotSent", "Request", "Requests"]


class NotSent(RoomBusy):
    """It never left this client, so it surely did not run."""


@dataclass(slots=True, eq=False)
class Request:
    """One question to the room, from when it is asked until `answer` is done."""

    number: int
    event: str
    answer: asyncio.Future[Any]
    sent: bool = False
    # Bytes of its frame, once it is sent.
    size: int = 0

    def succeed(self, data: Any) -> None:
        """Return `data` where the answer is awaited, unless it is there already."""
        if not self.answer.done():
            self.answer.set_result(data)

    def fail(self, error: VeraniError) -> None:
        """Raise `error` where the answer is awaited, unless it is there already."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Requests:
    """Number the open requests; as many are open as callers wait."""

    def __init__(self) -> None:
        self._open: dict[int, Request] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, event: str) -> Request:
        """Return a new request; its caller owns it until `forget`."""
        request = Request(next(self._numbers), event, asyncio.get_running_loop().create_future())
        self._open[request.number] = request
        return request

    def forget(self, request: Request) -> None:
        """Ignore an answer that comes later."""
        del self._open[request.number]
        if request.answer.done() and not request.answer.cancelled():
            request.answer.exception()  # seen: its caller may have been cancelled in the same tick

    def get(self, number: int) -> Request | None:
        """Return the open request of this number, None if nobody waits for its answer."""
        return self._open.get(number)

    def fail(self, error: VeraniError) -> None:
        """Fail every open request."""
        for request in self._open.values():
            request.fail(error)

    def interrupt(self, why: Callable[[Request], VeraniError]) -> None:
        """Fail those whose frame has left."""
        for request in self._open.values():
            if request.sent:
                request.fail(why(request))
