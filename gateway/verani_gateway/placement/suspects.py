"""Judge inputs by the hosts that died in their hooks: send them alone, then never again.

What carries a verdict out is `verani_gateway.placement.hosts`. The clock is passed in.

Invariants:
- One death counts once, however many epochs tell of it.
- Only the input that ran when its host died is suspect, never what was sent along with it.
- What is set aside is bounded, in number and in bytes; the oldest goes first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from verani.link.epoch import Death
from verani.link.messages import CallInput, Close, Connect, FrameInput, Input

__all__ = ["Quarantined", "Suspects", "Verdict"]

logger = logging.getLogger(__name__)

# Deaths in the hook of one input, from which on it is not sent any more.
_DEADLY: Final = 2

# A room that killed so many hosts within so many seconds, whatever its inputs, has failed.
_FAILED: Final = 5
_WINDOW: Final = 60.0

# What is kept of inputs that were set aside.
_KEPT: Final = 100
_KEPT_BYTES: Final = 1 << 20

# Incarnations whose deaths are known. The registrar tells of those of late, which are far fewer.
_REMEMBERED: Final = 1024

# What is to be done: send the input alone, set it aside, or give up the whole room.
Verdict: TypeAlias = Literal["alone", "quarantine", "failed"]


class Quarantined(Struct, frozen=True):
    """An input that was set aside, for the operator; its payload is not shown.

    `event`: of a frame its type, of a call its method, else connect or close. `size` is in bytes, `since` in seconds
    of the Unix epoch. `connection` is empty for a call.
    """

    room: str
    connection: str
    event: str
    number: int
    size: int
    since: float
    reason: str


class Suspects:
    """What this gateway knows of deadly inputs."""

    def __init__(self, gateway: str, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """Judge for the gateway with this id; `clock` is monotonic, `wall_clock` only dates what is listed."""
        self._gateway = gateway
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        # How often the inputs of a room that are not processed yet were deadly.
        self._counts: dict[str, dict[int, int]] = {}
        self._deaths: dict[str, deque[float]] = {}
        self._kept: deque[tuple[Quarantined, Input]] = deque()
        self._kept_bytes = 0
        # How many were ever set aside.
        self.quarantined = 0

    def ignore(self, deaths: Collection[Death]) -> None:
        """Take deaths for known that happened before this gateway was there."""
        self._known.extend(death.incarnation for death in deaths)

    def judge(self, death: Death) -> Verdict | None:
        """Take a death, and say what is to be done about its input or its room; None for nothing."""
        if death.incarnation in self._known:
            return None
        self._known.append(death.incarnation)
        if self._has_failed(death.room):
            self._counts.pop(death.room, None)
            logger.error("room has failed: %d hosts died of it", _FAILED, extra={"room": death.room})
            return "failed"
        if death.gateway != self._gateway:
            return None
        counts = self._counts.setdefault(death.room, {})
        counts[death.number] = counts.get(death.number, 0) + 1
        if counts[death.number] < _DEADLY:
            logger.warning("a host died of an input, which is now sent alone", extra={"room": death.room})
            return "alone"
        self.settle(death.room, death.number)
        return "quarantine"

    def _has_failed(self, room: str) -> bool:
        now = self._clock()
        for name in [name for name, times in self._deaths.items() if now - times[-1] > _WINDOW]:
            del self._deaths[name]
        times = self._deaths.setdefault(room, deque(maxlen=_FAILED))
        times.append(now)
        if len(times) < _FAILED or now - times[0] > _WINDOW:
            return False
        del self._deaths[room]
        return True

    def of(self, room: str) -> Collection[int]:
        """Number the inputs of a room that are to be sent alone."""
        return self._counts.get(room, ())

    def settle(self, room: str, number: int) -> None:
        """Forget an input that was processed, or is gone."""
        counts = self._counts.get(room)
        if counts is not None:
            counts.pop(number, None)
            if not counts:
                del self._counts[room]

    def forget(self, room: str) -> None:
        """Forget all inputs of a room: none of them will be sent again."""
        self._counts.pop(room, None)

    def keep(self, input: Input, size: int) -> None:
        """Keep an input that was set aside."""
        connection, event = _describe(input)
        reason = f"{_DEADLY} hosts died of it"
        self.quarantined += 1
        self._kept.append(
            (Quarantined(input.room, connection, event, input.number, size, self._wall_clock(), reason), input)
        )
        self._kept_bytes += size
        while len(self._kept) > _KEPT or self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= self._kept.popleft()[0].size
        logger.error(
            "input %d (%s, %d bytes) is in quarantine: %s",
            input.number,
            event,
            size,
            reason,
            extra={"room": input.room, "connection": connection},
        )

    def listed(self) -> list[Quarantined]:
        """List what is set aside, the oldest first."""
        return [entry for entry, _ in self._kept]


def _describe(input: Input) -> tuple[str, str]:
    match input:
        case FrameInput():
            return input.connection, input.event
        case CallInput():
            return "", input.method
        case Connect():
            return input.connection, "connect"
        case Close():
            return input.connection, "close"
